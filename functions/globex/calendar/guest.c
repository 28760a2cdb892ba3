#include "guest.h"

#define PAGE ((size_t)65536)
// Above what any event can need: the manifest's limit is lower and ends the call first.
#define MOST ((size_t)64 << 20)

extern uint8_t __heap_base;
static uintptr_t top = (uintptr_t)&__heap_base;

static bool reach(uintptr_t end) {
  size_t have = __builtin_wasm_memory_size(0) * PAGE;
  return end <= have || __builtin_wasm_memory_grow(0, (end - have + PAGE - 1) / PAGE) != SIZE_MAX;
}

void *allocate(size_t len, size_t align) {
  uintptr_t start = (top + align - 1) & ~(uintptr_t)(align - 1);
  if (len > MOST || start > MOST || !reach(start + len)) __builtin_trap();
  top = start + len;
  return (void *)start;
}

bool extend_last(const void *end, size_t more) {
  if ((uintptr_t)end != top || more > MOST || top > MOST || !reach(top + more)) return false;
  top += more;
  return true;
}

// The gateway asks for the memory of the event's texts here.
__attribute__((export_name("cabi_realloc"))) void *cabi_realloc(void *was, size_t had, size_t align, size_t len) {
  if (was && (len <= had || extend_last((uint8_t *)was + had, len - had))) return was;
  uint8_t *now = allocate(len, align);
  if (was) __builtin_memcpy(now, was, had);
  return now;
}

__attribute__((export_name("sandgate:function/handler@0.1.0#handle"))) response *exported_handle(const event *event) {
  static response reply;
  handle(event, &reply);
  return &reply;
}
