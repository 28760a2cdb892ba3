// The part of `wasi:http/proxy` 0.2.12 that these guests use, as the canonical ABI lowers it, and a heap that never frees.
// Anybody's host of that world runs what is built with it.
#pragma once
#include <stddef.h>
#include <stdint.h>

#define IMPORT(module, name) __attribute__((import_module(module), import_name(name)))
#define HTTP "wasi:http/types@0.2.12"
#define STREAMS "wasi:io/streams@0.2.12"
#define POLL "wasi:io/poll@0.2.12"

typedef int32_t handle;
typedef struct { const char *at; size_t length; } text;

// A result, option or variant with a payload: the discriminant, then the payload at the next multiple of its alignment.
typedef struct { uint8_t is; int32_t first, second; } answer;
typedef struct { _Alignas(8) uint8_t bytes[64]; } scratch;

IMPORT(HTTP, "[method]incoming-request.method") void request_method(handle, answer *);
IMPORT(HTTP, "[method]incoming-request.path-with-query") void request_path(handle, answer *);
IMPORT(HTTP, "[method]incoming-request.headers") handle request_headers(handle);
IMPORT(HTTP, "[method]incoming-request.consume") void request_consume(handle, answer *);
IMPORT(HTTP, "[method]incoming-body.stream") void incoming_body_stream(handle, answer *);
IMPORT(HTTP, "[constructor]fields") handle fields_new(void);
IMPORT(HTTP, "[method]fields.append")
void fields_append(handle, const char *, size_t, const char *, size_t, scratch *);
IMPORT(HTTP, "[constructor]outgoing-response") handle response_new(handle fields);
IMPORT(HTTP, "[method]outgoing-response.set-status-code") int32_t response_set_status(handle, int32_t);
IMPORT(HTTP, "[method]outgoing-response.body") void response_body(handle, answer *);
IMPORT(HTTP, "[method]outgoing-body.write") void outgoing_body_write(handle, answer *);
IMPORT(HTTP, "[static]outgoing-body.finish") void outgoing_body_finish(handle, int32_t, handle, scratch *);
IMPORT(HTTP, "[static]response-outparam.set")
void outparam_set(handle, int32_t, int32_t, int32_t, int64_t, int32_t, int32_t, int32_t, int32_t);

IMPORT(STREAMS, "[method]input-stream.blocking-read") void stream_read(handle, int64_t, answer *);
IMPORT(STREAMS, "[method]output-stream.check-write") void stream_check_write(handle, scratch *);
IMPORT(STREAMS, "[method]output-stream.write") void stream_write(handle, const char *, size_t, answer *);
IMPORT(STREAMS, "[method]output-stream.blocking-write-and-flush")
void stream_write_and_flush(handle, const char *, size_t, answer *);
IMPORT(STREAMS, "[method]output-stream.subscribe") handle stream_subscribe(handle);
IMPORT(STREAMS, "[resource-drop]output-stream") void stream_drop(handle);
IMPORT(POLL, "[method]pollable.block") void pollable_block(handle);

extern unsigned char __heap_base;

__attribute__((export_name("cabi_realloc"))) void *cabi_realloc(void *old, size_t had, size_t align, size_t size) {
  static uintptr_t next = 0;
  if (!next) next = (uintptr_t)&__heap_base;
  next = (next + align - 1) & ~(uintptr_t)(align - 1);
  uintptr_t end = next + size;
  while (end > (uintptr_t)__builtin_wasm_memory_size(0) << 16)
    if (__builtin_wasm_memory_grow(0, 1 + (size >> 16)) == (size_t)-1) __builtin_trap();
  void *made = (void *)next;
  next = end;
  if (had) __builtin_memcpy(made, old, had < size ? had : size);
  return made;
}

typedef struct { handle body, stream; } reply;

// Answers with a status and, but for length 0, a content-type; the body follows.
static inline reply reply_start(handle out, int32_t status, handle fields) {
  answer body, stream;
  handle response = response_new(fields);
  if (response_set_status(response, status)) __builtin_trap();
  response_body(response, &body);
  outgoing_body_write(body.first, &stream);
  outparam_set(out, 0, response, 0, 0, 0, 0, 0, 0);
  return (reply){body.first, stream.first};
}

static inline int32_t reply_write(reply to, const char *at, size_t length) {
  while (length) {
    answer written;
    size_t piece = length < 4096 ? length : 4096;
    stream_write_and_flush(to.stream, at, piece, &written);
    if (written.is) return 1;
    at += piece;
    length -= piece;
  }
  return 0;
}

static inline void reply_end(reply to) {
  scratch ignored;
  stream_drop(to.stream);
  outgoing_body_finish(to.body, 0, 0, &ignored);
}

static inline char *put(char *to, const char *word) {
  while (*word) *to++ = *word++;
  return to;
}

static inline char *put_number(char *to, uint64_t number) {
  char digits[20];
  int count = 0;
  do digits[count++] = '0' + number % 10; while (number /= 10);
  while (count) *to++ = digits[--count];
  return to;
}

static inline handle typed(const char *type, size_t length) {
  scratch ignored;
  handle fields = fields_new();
  fields_append(fields, "content-type", 12, type, length, &ignored);
  return fields;
}
