// A reader of JSON (RFC 8259) for shapes that are known beforehand.
//
// Each function takes the next token, or returns false and means: this is not the expected shape. A string is decoded where it
// stands, since no escape is shorter than what it stands for. Neither recursion nor allocation, so no input can cost more than
// its length.

#pragma once

#include "guest.h"

typedef struct {
  uint8_t *at;
  uint8_t *end;
} json;

// Blanks, then this byte: one of `{}[]:,`.
bool json_take(json *in, uint8_t byte);
// Blanks, then a string of valid UTF-8 without U+0000.
bool json_string(json *in, text *out);
// Blanks, then the end.
bool json_end(json *in);

bool same(text a, const char *b);
