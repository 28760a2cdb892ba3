// What a function sees of `functions/wit/function.wit`, written by hand against the canonical ABI of the component model.
//
// On wasm32 a `string` or `list` is a pointer and a length, a record is its fields in order with C's own alignment, and an
// `option` is a byte and then its value. A record too large for 16 flat parameters is passed as one pointer. So the structs
// below are the ABI, and no generated code stands between the gateway and the function.

#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
  uint8_t *ptr;
  size_t len;
} text;

typedef struct {
  void *ptr;
  size_t len;
} list;

typedef struct {
  text id;
  list roles;
  list scopes;
} caller;

typedef struct {
  text request_id;
  caller caller;
  text method;
  text rest;
  text query;
  list headers;
  text content_type;
  text body;
  struct {
    uint8_t is_some;
    text value;
  } raw;
  list signals;
} event;

typedef struct {
  uint16_t status;
  text content_type;
  list headers;
  text body;
} response;

_Static_assert(sizeof(event) == 25 * 4 && offsetof(event, body) == 18 * 4, "the ABI's layout of `event`");
_Static_assert(sizeof(response) == 7 * 4 && offsetof(response, body) == 5 * 4, "the ABI's layout of `response`");

// The function itself: `handler.handle`.
void handle(const event *event, response *response);

// `len` bytes that live until the end of the call; traps when there is no memory. Nothing is ever freed, since the instance
// is dropped after one call. What was allocated last can be made longer where it is.
void *allocate(size_t len, size_t align);
bool extend_last(const void *end, size_t more);
