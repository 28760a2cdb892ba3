// What a component of `wasi:http/proxy` could do to its host, one thing for each path.
#include "../wasi_http.h"

#define CLOCK "wasi:clocks/monotonic-clock@0.2.12"
#define RANDOM "wasi:random/insecure@0.2.12"
IMPORT(CLOCK, "now") int64_t clock_now(void);
IMPORT(CLOCK, "resolution") int64_t clock_resolution(void);
IMPORT(CLOCK, "subscribe-duration") handle clock_after(int64_t);
IMPORT(CLOCK, "subscribe-instant") handle clock_at(int64_t);
IMPORT(RANDOM, "get-insecure-random-bytes") void random_bytes(int64_t, text *);
IMPORT(RANDOM, "get-insecure-random-u64") int64_t random_number(void);
IMPORT("wasi:random/insecure-seed@0.2.12", "insecure-seed") void random_seed(uint64_t *);
IMPORT("wasi:random/random@0.2.12", "get-random-u64") int64_t secret_number(void);
IMPORT("wasi:clocks/wall-clock@0.2.12", "now") void time_of_day(scratch *);
IMPORT("wasi:sockets/tcp-create-socket@0.2.12", "create-tcp-socket") void socket_new(int32_t, answer *);
IMPORT("wasi:sockets/instance-network@0.2.12", "instance-network") handle network(void);
IMPORT("wasi:cli/exit@0.2.12", "exit") void leave(int32_t);
IMPORT("wasi:cli/environment@0.2.12", "get-environment") void environment(text *);
IMPORT("wasi:cli/environment@0.2.12", "get-arguments") void arguments(text *);
IMPORT("wasi:cli/stdin@0.2.12", "get-stdin") handle get_stdin(void);
IMPORT("wasi:cli/stdout@0.2.12", "get-stdout") handle get_stdout(void);
IMPORT("wasi:cli/stderr@0.2.12", "get-stderr") handle get_stderr(void);
IMPORT("wasi:cli/terminal-stdout@0.2.12", "get-terminal-stdout") void terminal(answer *);
IMPORT("wasi:filesystem/preopens@0.2.12", "get-directories") void directories(text *);

IMPORT(POLL, "poll") void poll_all(const handle *, size_t, text *);
IMPORT(POLL, "[resource-drop]pollable") void pollable_drop(handle);
IMPORT(STREAMS, "[method]output-stream.write-zeroes") void stream_write_zeroes(handle, int64_t, answer *);
IMPORT(STREAMS, "[method]output-stream.flush") void stream_flush(handle, answer *);
IMPORT(STREAMS, "[method]output-stream.blocking-splice") void stream_splice(handle, handle, int64_t, scratch *);
IMPORT(STREAMS, "[method]input-stream.skip") void stream_skip(handle, int64_t, scratch *);
IMPORT(HTTP, "[resource-drop]outgoing-body") void outgoing_body_drop(handle);

static char page[1 << 20];

static void say(handle out, const char *word) {
  reply to = reply_start(out, 200, typed("text/plain", 10));
  size_t length = 0;
  while (word[length]) length++;
  reply_write(to, word, length);
  reply_end(to);
}

static int is(answer path, const char *wanted) {
  const char *at = (const char *)(uintptr_t)path.first;
  if (!path.is) return 0;
  for (int32_t i = 0; i < path.second; i++)
    if (at[i] != wanted[i]) return 0;
  return !wanted[path.second];
}

static void with_header(handle out, const char *name, size_t name_length, const char *value, size_t value_length) {
  scratch told;
  handle fields = typed("text/plain", 10);
  fields_append(fields, name, name_length, value, value_length, &told);
  reply to = reply_start(out, 200, fields);
  reply_write(to, told.bytes[0] ? "no" : "set", told.bytes[0] ? 2 : 3);
  reply_end(to);
}

// Past every pretence of an optimizer that a loop without effect ends.
static volatile uint64_t sink;

// Down to the end of the stack, with a call of the host on every level.
__attribute__((noinline)) static int32_t descend(handle fields, uint64_t level) {
  scratch ignored;
  volatile char frame[256];
  frame[level & 255] = (char)level;
  fields_append(fields, "\n", 1, page, 4096, &ignored);
  if (level == UINT64_MAX) return 0;
  return descend(fields, level + 1) + frame[(level >> 8) & 255];
}

// A stream to which the host listens, with what it belongs to.
static reply open_reply(handle out) { return reply_start(out, 200, typed("text/plain", 10)); }

static void say_number(handle out, uint64_t number) {
  char digits[21];
  *put_number(digits, number) = 0;
  say(out, digits);
}

__attribute__((export_name("wasi:http/incoming-handler@0.2.12#handle"))) void handle_request(handle request, handle out) {
  static char told[256];
  answer path, given;
  scratch ignored;
  text list;
  request_path(request, &path);
  if (is(path, "/spin")) {
    for (;;) sink++;
  } else if (is(path, "/stdout")) {
    // 1 MiB to each, by writes as large as are allowed.
    handle streams[2] = {get_stdout(), get_stderr()};
    for (int i = 0; i < 32; i++) stream_write(streams[i & 1], page, 65536, &given);
    say(out, "written");
  } else if (is(path, "/flood")) {
    handle stream = get_stdout();
    for (;;) stream_write(stream, page, 65536, &given);
  } else if (is(path, "/flood-at-once")) {
    stream_write(get_stdout(), page, sizeof page, &given);
    say(out, "written");
  } else if (is(path, "/stdin")) {
    stream_read(get_stdin(), 1, &given);
    // An error, and of the errors `closed`.
    say(out, given.is && (uint8_t)given.first == 1 ? "closed" : "open");
  } else if (is(path, "/endless")) {
    reply to = reply_start(out, 200, typed("text/plain", 10));
    while (!reply_write(to, page, sizeof page));
    for (;;) sink++;
  } else if (is(path, "/never")) {
    // Nobody reads before the response is given away, and it never is.
    answer body, stream;
    response_body(response_new(fields_new()), &body);
    outgoing_body_write(body.first, &stream);
    for (int i = 0; i < 8; i++) stream_write_and_flush(stream.first, page, 4096, &given);
  } else if (is(path, "/sleep")) {
    pollable_block(clock_after(INT64_MAX));
    say(out, "woke");
  } else if (is(path, "/sleep-at-the-end-of-time")) {
    pollable_block(clock_at(-1));
    say(out, "woke");
  } else if (is(path, "/nap")) {
    int64_t before = clock_now();
    pollable_block(clock_after(20000000));
    say(out, clock_now() - before >= 19000000 ? "slept" : "woke early");
  } else if (is(path, "/past")) {
    pollable_block(clock_at(0));
    pollable_block(clock_after(0));
    say(out, "at once");
  } else if (is(path, "/clock")) {
    uint64_t fine = clock_resolution() != 1000000, began = clock_now(), now;
    for (int i = 0; i < 100000; i++) fine |= (now = clock_now()) % 1000000;
    // From 0: whatever the machine's clock tells, a call is young.
    say(out, fine ? "fine" : began < 60000000000 ? "coarse" : "old");
  } else if (is(path, "/resources")) {
    for (int i = 0; i < 10000; i++) fields_new();
    say(out, "held");
  } else if (is(path, "/responses")) {
    for (int i = 0; i < 10000; i++) response_new(fields_new());
    say(out, "held");
  } else if (is(path, "/headers")) {
    // Into a map that is never sent.
    handle fields = fields_new();
    uint64_t taken = 0;
    for (int i = 0; i < 10000; i++) {
      fields_append(fields, "x-a", 3, page, 0, &ignored);
      taken += !ignored.bytes[0];
    }
    put_number(told, taken);
    say(out, told);
  } else if (is(path, "/header-of-a-mebibyte")) {
    __builtin_memset(page, 'x', sizeof page);
    with_header(out, "x-a", 3, page, sizeof page);
  } else if (is(path, "/many-headers")) {
    handle fields = typed("text/plain", 10);
    for (int i = 0; i < 40; i++) fields_append(fields, "x-a", 3, "v", 1, &ignored);
    reply to = reply_start(out, 200, fields);
    reply_write(to, "x", 1);
    reply_end(to);
  } else if (is(path, "/set-cookie")) {
    with_header(out, "set-cookie", 10, "a=b", 3);
  } else if (is(path, "/transfer-encoding")) {
    with_header(out, "transfer-encoding", 17, "chunked", 7);
  } else if (is(path, "/sandgate-caller")) {
    with_header(out, "sandgate-caller", 15, "acme/mallory", 12);
  } else if (is(path, "/split")) {
    with_header(out, "x-a", 3, "b\r\nset-cookie: c=d", 18);
  } else if (is(path, "/length")) {
    // Truncates the host's own count if it is not careful.
    with_header(out, "content-length", 14, "4294967299", 10);
  } else if (is(path, "/latin")) {
    with_header(out, "x-a", 3, "\xe9", 1);
  } else if (is(path, "/status")) {
    reply to = reply_start(out, 199, typed("text/plain", 10));
    reply_write(to, "x", 1);
    reply_end(to);
  } else if (is(path, "/exit")) {
    leave(1);
  } else if (is(path, "/exit-well")) {
    leave(0);
  } else if (is(path, "/silent")) {
  } else if (is(path, "/declined")) {
    // `HTTP-response-incomplete`.
    outparam_set(out, 1, 19, 0, 0, 0, 0, 0, 0);
  } else if (is(path, "/unfinished")) {
    reply to = reply_start(out, 200, typed("text/plain", 10));
    reply_write(to, "begun", 5);
  } else if (is(path, "/dropped")) {
    reply to = reply_start(out, 200, typed("text/plain", 10));
    reply_write(to, "begun", 5);
    stream_drop(to.stream);
  } else if (is(path, "/late")) {
    say(out, "well");
    __builtin_trap();
  } else if (is(path, "/twice")) {
    say(out, "once");
    say(out, "twice");
  } else if (is(path, "/random")) {
    random_bytes(65536, &list);
    uint64_t seed[2];
    random_seed(seed);
    char *end = put_number(told, (uint64_t)random_number());
    end = put(end, " ");
    end = put_number(end, seed[0] ^ seed[1]);
    say(out, list.length == 65536 ? told : "too few");
  } else if (is(path, "/random-without-end")) {
    random_bytes(INT64_MAX, &list);
  } else if (is(path, "/nothing")) {
    // Variables, arguments, folders, a terminal.
    uint64_t found = 0;
    environment(&list);
    found += list.length;
    arguments(&list);
    found += list.length;
    directories(&list);
    found += list.length;
    terminal(&given);
    found += given.is;
    put_number(told, found);
    say(out, told);
  } else if (is(path, "/wall-clock")) {
    time_of_day(&ignored);
    say(out, "told");
  } else if (is(path, "/secret")) {
    secret_number();
    say(out, "told");
  } else if (is(path, "/network")) {
    network();
    say(out, "told");
  } else if (is(path, "/socket")) {
    // An error, and of the errors `access-denied`.
    socket_new(0, &given);
    say(out, given.is && (uint8_t)given.first == 1 ? "denied" : "opened");
  } else if (is(path, "/poll-copies")) {
    // One that is ready, many times over.
    handle *copies = (handle *)page, ready = clock_at(0);
    for (int i = 0; i < 200; i++) copies[i] = ready;
    poll_all(copies, 200, &list);
    say_number(out, list.length);
  } else if (is(path, "/poll-without-end")) {
    handle *copies = (handle *)page, never = clock_at(-1);
    for (int i = 0; i < 200; i++) copies[i] = never;
    copies[199] = clock_at(0);
    for (;;) poll_all(copies, 200, &list);
  } else if (is(path, "/poll-nothing")) {
    poll_all((handle *)page, 0, &list);
    say(out, "polled");
  } else if (is(path, "/naps")) {
    // Hardly ever computes, and never ends.
    for (;;) {
      handle soon = clock_after(5000000);
      pollable_block(soon);
      pollable_drop(soon);
    }
  } else if (is(path, "/zeroes")) {
    stream_write_zeroes(get_stdout(), INT64_MAX, &given);
    say(out, "written");
  } else if (is(path, "/zeroes-of-the-reply")) {
    stream_write_zeroes(open_reply(out).stream, INT64_MAX, &given);
  } else if (is(path, "/empty-writes")) {
    reply to = open_reply(out);
    for (;;) stream_write_and_flush(to.stream, page, 0, &given);
  } else if (is(path, "/flushes")) {
    reply to = open_reply(out);
    for (;;) stream_flush(to.stream, &given);
  } else if (is(path, "/skip")) {
    answer body, stream;
    scratch skipped;
    request_consume(request, &body);
    incoming_body_stream(body.first, &stream);
    stream_skip(stream.first, -1, &skipped);
    say_number(out, skipped.bytes[0] ? 0 : *(uint64_t *)(skipped.bytes + 8));
  } else if (is(path, "/splice")) {
    answer body, stream;
    scratch spliced;
    request_consume(request, &body);
    incoming_body_stream(body.first, &stream);
    reply to = open_reply(out);
    do stream_splice(to.stream, stream.first, -1, &spliced); while (!spliced.bytes[0]);
    reply_end(to);
  } else if (is(path, "/twice-over")) {
    // What can be had once: a request's body and its stream, a reply's body and its stream.
    answer body, stream;
    uint64_t refused = 0;
    request_consume(request, &body);
    request_consume(request, &given), refused += given.is;
    incoming_body_stream(body.first, &stream);
    incoming_body_stream(body.first, &given), refused += given.is;
    handle response = response_new(fields_new());
    response_body(response, &body);
    response_body(response, &given), refused += given.is;
    outgoing_body_write(body.first, &stream);
    outgoing_body_write(body.first, &given), refused += given.is;
    say_number(out, refused);
  } else if (is(path, "/finished-with-its-stream")) {
    outgoing_body_finish(open_reply(out).body, 0, 0, &ignored);
  } else if (is(path, "/dropped-with-its-stream")) {
    outgoing_body_drop(open_reply(out).body);
  } else if (is(path, "/dropped-twice")) {
    reply to = open_reply(out);
    stream_drop(to.stream);
    stream_drop(to.stream);
  } else if (is(path, "/forged")) {
    pollable_block(12345);
  } else if (is(path, "/mistaken")) {
    pollable_block(fields_new());
  } else if (is(path, "/trailers")) {
    reply to = open_reply(out);
    reply_write(to, "body", 4);
    stream_drop(to.stream);
    handle fields = fields_new();
    fields_append(fields, "x-trailer", 9, "v", 1, &ignored);
    outgoing_body_finish(to.body, 1, fields, &ignored);
  } else if (is(path, "/upper-case")) {
    with_header(out, "X-Upper", 7, "v", 1);
  } else if (is(path, "/nul")) {
    with_header(out, "x-a", 3, "a\0b", 3);
  } else if (is(path, "/nul-in-a-name")) {
    with_header(out, "x\0a", 3, "v", 1);
  } else if (is(path, "/length-too-short")) {
    with_header(out, "content-length", 14, "1", 1);
  } else if (is(path, "/status-of-none")) {
    handle response = response_new(fields_new());
    say_number(out, response_set_status(response, 99) + response_set_status(response, 1000) +
                        response_set_status(response, 65535));
  } else if (is(path, "/status-999")) {
    reply to = reply_start(out, 999, typed("text/plain", 10));
    reply_write(to, "x", 1);
    reply_end(to);
  } else if (is(path, "/descend")) {
    sink += descend(fields_new(), 0);
  } else if (is(path, "/buffers")) {
    // As many replies as it may hold, each filled as far as it takes, and none of them sent.
    uint64_t filled = 0;
    for (int i = 0; i < 60; i++) {
      answer body, stream;
      response_body(response_new(fields_new()), &body);
      outgoing_body_write(body.first, &stream);
      for (int j = 0; j < 2; j++) stream_write(stream.first, page, 65536, &given), filled += !given.is;
    }
    say_number(out, filled);
  } else if (is(path, "/canary")) {
    // What an invocation finds: memory, the number of its first resource, a clock that has not begun.
    static uint64_t seen;
    char *end = put_number(told, seen++ + (uint64_t)page[sizeof page - 1]);
    page[sizeof page - 1] = 1;
    end = put(end, " ");
    end = put_number(end, (uint64_t)fields_new());
    end = put(end, clock_now() < 60000000000 ? " young" : " old");
    *end = 0;
    say(out, told);
  } else if (is(path, "/grow")) {
    while (__builtin_wasm_memory_grow(0, 16) != (size_t)-1);
    __builtin_trap();
  } else {
    say(out, "hostile");
  }
}
