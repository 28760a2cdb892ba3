// `globex/calendar`: JSON events in, an iCalendar feed (RFC 5545) out.
//
// There is no clock here, so the same events always give the same bytes: DTSTAMP is when the event was `updated`, or else its
// start.

#include "json.h"

#define MOST_EVENTS 200
#define MOST_FAULTS 20
// RFC 5545 §3.1: no line longer than 75 octets without its line break.
#define LINE 75

typedef struct {
  text uid, title, start, end, location, description, updated;
} meeting;

static const char *const NAMES[] = {"uid", "title", "start", "end", "location", "description", "updated"};
#define MEMBERS (sizeof NAMES / sizeof *NAMES)
#define REQUIRED 4
_Static_assert(sizeof(meeting) == MEMBERS * sizeof(text), "a meeting is its members in the order of NAMES");

static text calendar_name;
static meeting meetings[MOST_EVENTS];
static size_t count;

// ---- the reply as it grows

static text out;
static size_t room, column;

static void put(uint8_t byte) {
  if (out.len == room) {
    if (!out.ptr) out.ptr = allocate(0, 1);
    if (!extend_last(out.ptr + room, 4096)) __builtin_trap();
    room += 4096;
  }
  out.ptr[out.len++] = byte;
}

static void puts_raw(const char *s) {
  while (*s) put(*s++);
}

// One character (`len` bytes) of a content line, on a new folded line where it would not fit.
static void put_folded(const uint8_t *at, size_t len) {
  if (column + len > LINE) {
    puts_raw("\r\n ");
    column = 1;
  }
  column += len;
  while (len--) put(*at++);
}

static void puts_folded(const char *s) {
  while (*s) put_folded((const uint8_t *)s++, 1);
}

static void end_line(void) {
  puts_raw("\r\n");
  column = 0;
}

static void put_line(const char *s) {
  puts_folded(s);
  end_line();
}

// A property of type TEXT (RFC 5545 §3.3.11). `\r\n`, `\n` and `\r` are one line break each.
static void put_text(const char *name, text value) {
  puts_folded(name);
  put_folded((const uint8_t *)":", 1);
  for (size_t i = 0; i < value.len;) {
    uint8_t byte = value.ptr[i];
    if (byte == '\r' || byte == '\n') {
      puts_folded("\\n");
      i += byte == '\r' && i + 1 < value.len && value.ptr[i + 1] == '\n' ? 2 : 1;
      continue;
    }
    if (byte == '\\' || byte == ';' || byte == ',') puts_folded("\\");
    size_t len = 1;
    while (i + len < value.len && (value.ptr[i + len] & 0xC0) == 0x80) len++;
    put_folded(value.ptr + i, len);
    i += len;
  }
  end_line();
}

// `2026-11-24T10:00:00Z` → `20261124T100000Z`
static void put_time(const char *name, text time) {
  puts_folded(name);
  put_folded((const uint8_t *)":", 1);
  for (size_t i = 0; i < time.len; i++) {
    if (time.ptr[i] != '-' && time.ptr[i] != ':') put_folded(time.ptr + i, 1);
  }
  end_line();
}

// ---- what may be wrong with an event

static size_t faults;

static void fault(size_t index, const char *name, const char *message) {
  if (faults == MOST_FAULTS) return;
  puts_raw(faults++ ? ",{\"pointer\":\"" : "{\"errors\":[{\"pointer\":\"");
  if (name) {
    puts_raw("/events/");
    for (size_t unit = index > 99 ? 100 : index > 9 ? 10 : 1; unit; unit /= 10) put('0' + index / unit % 10);
    put('/');
    puts_raw(name);
  }
  puts_raw("\",\"message\":\"");
  puts_raw(message);
  puts_raw("\"}");
}

static uint32_t digits(const uint8_t *at, int len) {
  uint32_t value = 0;
  while (len--) value = value * 10 + (*at++ - '0');
  return value;
}

// RFC 3339 in UTC, whole seconds, a day that exists. Such texts compare as the times they stand for.
static bool is_time(text time) {
  static const char SHAPE[] = "0000-00-00T00:00:00Z";
  static const uint8_t DAYS[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
  if (time.len != sizeof SHAPE - 1) return false;
  for (size_t i = 0; i < time.len; i++) {
    uint8_t byte = time.ptr[i];
    if (SHAPE[i] == '0' ? byte < '0' || byte > '9' : byte != (uint8_t)SHAPE[i]) return false;
  }
  uint32_t year = digits(time.ptr, 4), month = digits(time.ptr + 5, 2), day = digits(time.ptr + 8, 2);
  if (month < 1 || month > 12) return false;
  bool leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
  uint32_t days = DAYS[month - 1] + (month == 2 && leap);
  return day >= 1 && day <= days && digits(time.ptr + 11, 2) < 24 && digits(time.ptr + 14, 2) < 60 &&
         digits(time.ptr + 17, 2) < 60;
}

static bool is_later(text a, text b) {
  for (size_t i = 0; i < a.len; i++) {
    if (a.ptr[i] != b.ptr[i]) return a.ptr[i] > b.ptr[i];
  }
  return false;
}

static bool is_same(text a, text b) {
  if (a.len != b.len) return false;
  for (size_t i = 0; i < a.len; i++) {
    if (a.ptr[i] != b.ptr[i]) return false;
  }
  return true;
}

// Control characters have no place in TEXT, but for tabs and the line breaks that are escaped.
static bool is_plain(text value) {
  for (size_t i = 0; i < value.len; i++) {
    uint8_t byte = value.ptr[i];
    if (byte == 0x7F || (byte < 0x20 && byte != '\t' && byte != '\n' && byte != '\r')) return false;
  }
  return true;
}

static void check(size_t index) {
  const meeting *m = &meetings[index];
  const text *members = &m->uid;
  for (size_t i = 0; i < MEMBERS; i++) {
    if (!is_plain(members[i])) fault(index, NAMES[i], "has a control character");
  }
  for (size_t i = 0; i < index; i++) {
    if (is_same(meetings[i].uid, m->uid)) {
      fault(index, "uid", "is the uid of an event before it");
      break;
    }
  }
  bool times = true;
  for (size_t i = 0; i < MEMBERS; i++) {
    bool is_one = &members[i] == &m->start || &members[i] == &m->end || (&members[i] == &m->updated && m->updated.ptr);
    if (is_one && !is_time(members[i])) {
      fault(index, NAMES[i], "is not a time in UTC, such as 2026-11-24T10:00:00Z");
      times = false;
    }
  }
  // RFC 5545 §3.8.2.2
  if (times && !is_later(m->end, m->start)) fault(index, "end", "is not later than the start");
}

// ---- reading

static bool read_meeting(json *in) {
  if (count == MOST_EVENTS || !json_take(in, '{')) return false;
  text *members = &meetings[count++].uid;
  do {
    text name;
    size_t i = 0;
    if (!json_string(in, &name) || !json_take(in, ':')) return false;
    while (i < MEMBERS && !same(name, NAMES[i])) i++;
    if (i == MEMBERS || members[i].ptr || !json_string(in, &members[i])) return false;
  } while (json_take(in, ','));
  for (size_t i = 0; i < REQUIRED; i++) {
    if (!members[i].ptr) return false;
  }
  return json_take(in, '}');
}

static bool read_meetings(json *in) {
  // RFC 5545 §3.6: a calendar has at least one component.
  if (!json_take(in, '[')) return false;
  do {
    if (!read_meeting(in)) return false;
  } while (json_take(in, ','));
  return json_take(in, ']');
}

static bool read_calendar(json *in) {
  bool seen = false;
  if (!json_take(in, '{')) return false;
  do {
    text name;
    if (!json_string(in, &name) || !json_take(in, ':')) return false;
    if (same(name, "calendar") && !calendar_name.ptr) {
      if (!json_string(in, &calendar_name)) return false;
    } else if (same(name, "events") && !seen) {
      seen = true;
      if (!read_meetings(in)) return false;
    } else {
      return false;
    }
  } while (json_take(in, ','));
  return json_take(in, '}') && json_end(in) && seen && calendar_name.ptr && is_plain(calendar_name);
}

// ---- writing

static void put_meeting(const meeting *m) {
  put_line("BEGIN:VEVENT");
  put_text("UID", m->uid);
  put_time("DTSTAMP", m->updated.ptr ? m->updated : m->start);
  put_time("DTSTART", m->start);
  put_time("DTEND", m->end);
  put_text("SUMMARY", m->title);
  if (m->location.ptr) put_text("LOCATION", m->location);
  if (m->description.ptr) put_text("DESCRIPTION", m->description);
  put_line("END:VEVENT");
}

static void reply(response *response, uint16_t status, const char *content_type) {
  size_t len = 0;
  while (content_type[len]) len++;
  response->status = status;
  response->content_type = (text){(uint8_t *)content_type, len};
  response->body = out;
}

void handle(const event *event, response *response) {
  json in = {event->body.ptr, event->body.ptr + event->body.len};
  if (read_calendar(&in)) {
    for (size_t i = 0; i < count; i++) check(i);
  } else {
    // The gateway has validated the event; a body that still is not one is refused like any other fault in it.
    fault(0, NULL, "not an event of this function");
  }
  if (faults) {
    puts_raw("]}");
    reply(response, 422, "application/json");
    return;
  }
  put_line("BEGIN:VCALENDAR");
  put_line("VERSION:2.0");
  put_line("PRODID:-//Globex//Calendar//EN");
  put_line("CALSCALE:GREGORIAN");
  // RFC 7986 §5.1, and the older name that most readers still look for.
  put_text("NAME", calendar_name);
  put_text("X-WR-CALNAME", calendar_name);
  for (size_t i = 0; i < count; i++) put_meeting(&meetings[i]);
  put_line("END:VCALENDAR");
  reply(response, 200, "text/calendar; charset=utf-8");
}
