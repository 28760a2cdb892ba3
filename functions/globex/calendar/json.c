#include "json.h"

static void skip_blanks(json *in) {
  while (in->at < in->end && (*in->at == ' ' || *in->at == '\t' || *in->at == '\n' || *in->at == '\r')) in->at++;
}

bool json_take(json *in, uint8_t byte) {
  skip_blanks(in);
  if (in->at == in->end || *in->at != byte) return false;
  in->at++;
  return true;
}

bool json_end(json *in) {
  skip_blanks(in);
  return in->at == in->end;
}

bool same(text a, const char *b) {
  size_t i = 0;
  while (i < a.len && b[i] && a.ptr[i] == (uint8_t)b[i]) i++;
  return i == a.len && !b[i];
}

static bool hex4(json *in, uint32_t *out) {
  if (in->end - in->at < 4) return false;
  *out = 0;
  for (int i = 0; i < 4; i++) {
    uint8_t c = *in->at++;
    uint32_t digit = c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : 16;
    if (digit > 15) return false;
    *out = *out << 4 | digit;
  }
  return true;
}

// After `\u`: one code point, of one or two escapes.
static bool code_point(json *in, uint32_t *out) {
  uint32_t low;
  if (!hex4(in, out)) return false;
  if (*out < 0xD800 || *out > 0xDFFF) return *out != 0;
  if (*out > 0xDBFF || in->end - in->at < 6 || in->at[0] != '\\' || in->at[1] != 'u') return false;
  in->at += 2;
  if (!hex4(in, &low) || low < 0xDC00 || low > 0xDFFF) return false;
  *out = 0x10000 + ((*out - 0xD800) << 10) + (low - 0xDC00);
  return true;
}

static uint8_t *put_utf8(uint8_t *to, uint32_t c) {
  if (c < 0x80) {
    *to++ = c;
    return to;
  }
  if (c < 0x800) {
    *to++ = 0xC0 | c >> 6;
  } else {
    if (c < 0x10000) {
      *to++ = 0xE0 | c >> 12;
    } else {
      *to++ = 0xF0 | c >> 18;
      *to++ = 0x80 | (c >> 12 & 63);
    }
    *to++ = 0x80 | (c >> 6 & 63);
  }
  *to++ = 0x80 | (c & 63);
  return to;
}

// Length of the well-formed sequence at `at` (RFC 3629 §4), or 0.
static int utf8_length(const uint8_t *at, const uint8_t *end) {
  uint8_t first = *at, low = 0x80, high = 0xBF;
  int len = first < 0x80 ? 1 : first < 0xC2 ? 0 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : first < 0xF5 ? 4 : 0;
  if (len < 2) return len;
  if (end - at < len) return 0;
  if (first == 0xE0) low = 0xA0;
  if (first == 0xED) high = 0x9F;
  if (first == 0xF0) low = 0x90;
  if (first == 0xF4) high = 0x8F;
  if (at[1] < low || at[1] > high) return 0;
  for (int i = 2; i < len; i++) {
    if ((at[i] & 0xC0) != 0x80) return 0;
  }
  return len;
}

static bool escape(json *in, uint8_t **to) {
  uint32_t c;
  if (in->at == in->end) return false;
  uint8_t kind = *in->at++;
  switch (kind) {
    case '"': case '\\': case '/': c = kind; break;
    case 'b': c = '\b'; break;
    case 'f': c = '\f'; break;
    case 'n': c = '\n'; break;
    case 'r': c = '\r'; break;
    case 't': c = '\t'; break;
    case 'u':
      if (!code_point(in, &c)) return false;
      break;
    default: return false;
  }
  *to = put_utf8(*to, c);
  return true;
}

bool json_string(json *in, text *out) {
  if (!json_take(in, '"')) return false;
  uint8_t *to = out->ptr = in->at;
  while (in->at < in->end) {
    uint8_t byte = *in->at;
    if (byte < 0x20) return false;
    if (byte == '"') {
      in->at++;
      out->len = to - out->ptr;
      return true;
    }
    if (byte == '\\') {
      in->at++;
      if (!escape(in, &to)) return false;
      continue;
    }
    int len = utf8_length(in->at, in->end);
    if (!len) return false;
    while (len--) *to++ = *in->at++;
  }
  return false;
}
