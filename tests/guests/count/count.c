// Counts lines, words and bytes of the request's body, as `wc` does, whatever its size: it is read as it comes.
#include "../wasi_http.h"

__attribute__((export_name("wasi:http/incoming-handler@0.2.12#handle"))) void handle_request(handle request, handle out) {
  answer body, stream, read;
  uint64_t lines = 0, words = 0, bytes = 0;
  int inside = 0;
  request_consume(request, &body);
  incoming_body_stream(body.first, &stream);
  if (body.is || stream.is) __builtin_trap();
  for (;;) {
    stream_read(stream.first, 65536, &read);
    if (read.is) break;
    const char *at = (const char *)(uintptr_t)read.first;
    for (int32_t i = 0; i < read.second; i++) {
      int space = at[i] == ' ' || (at[i] >= '\t' && at[i] <= '\r');
      lines += at[i] == '\n';
      words += !space && !inside;
      inside = !space;
    }
    bytes += read.second;
  }
  static char told[128];
  char *end = put(told, "{\"lines\":");
  end = put_number(end, lines);
  end = put(end, ",\"words\":");
  end = put_number(end, words);
  end = put(end, ",\"bytes\":");
  end = put_number(end, bytes);
  end = put(end, "}");
  reply to = reply_start(out, 200, typed("application/json", 16));
  if (reply_write(to, told, end - told)) __builtin_trap();
  reply_end(to);
}
