;; Greets: {"name":"Ada"} → {"greeting":"Hello, Ada!"}.
;;
;; One core module with a memory that begins at one page, a bump allocator and no library. The event is JSON text that the
;; gateway has written anew, so it is well formed and each name stands in it unescaped. The value of "name" is copied
;; still escaped: what stood between two quotes there may stand between two quotes here.
(component
  (core module $hello
    (memory (export "memory") 1)
    (data (i32.const 16) "application/json")
    (data (i32.const 32) "{\"greeting\":\"Hello, ")
    (data (i32.const 64) "!\"}")
    (data (i32.const 72) "world")

    ;; The next free byte. The instance lives for one call, so nothing is ever freed.
    (global $free (mut i32) (i32.const 1024))

    (func $allocate (param $align i32) (param $size i32) (result i32)
      (local $at i32) (local $end i32)
      (local.set $at
        (i32.and
          (i32.add (global.get $free) (i32.sub (local.get $align) (i32.const 1)))
          (i32.sub (i32.const 0) (local.get $align))))
      (local.set $end (i32.add (local.get $at) (local.get $size)))
      (if (i32.lt_u (local.get $end) (local.get $at)) (then (unreachable)))
      (if (i32.gt_u (local.get $end) (i32.shl (memory.size) (i32.const 16)))
        (then
          (br_if 0
            (i32.ne (i32.const -1)
              (memory.grow
                (i32.add (i32.const 1)
                  (i32.shr_u
                    (i32.sub (local.get $end) (i32.shl (memory.size) (i32.const 16)))
                    (i32.const 16))))))
          (unreachable)))
      (global.set $free (local.get $end))
      (local.get $at))

    (func (export "realloc") (param $old i32) (param $old-size i32) (param $align i32) (param $size i32) (result i32)
      (local $new i32)
      (local.set $new (call $allocate (local.get $align) (local.get $size)))
      (memory.copy (local.get $new) (local.get $old)
        (select (local.get $old-size) (local.get $size) (i32.lt_u (local.get $old-size) (local.get $size))))
      (local.get $new))

    ;; From the quote at $at to the quote that closes the string.
    (func $string-end (param $at i32) (param $end i32) (result i32)
      (loop $next
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (if (i32.ge_u (local.get $at) (local.get $end)) (then (return (local.get $end))))
        (if (i32.eq (i32.load8_u (local.get $at)) (i32.const 0x5c)) ;; a backslash: what follows is no quote
          (then
            (local.set $at (i32.add (local.get $at) (i32.const 1)))
            (br $next)))
        (br_if $next (i32.ne (i32.load8_u (local.get $at)) (i32.const 0x22))))
      (local.get $at))

    ;; The value of the outermost object's member "name", if that is a string: where it begins and its length.
    (func $name (param $at i32) (param $end i32) (result i32 i32)
      (local $depth i32) (local $byte i32) (local $close i32) (local $named i32)
      (block $none
        (loop $next
          (br_if $none (i32.ge_u (local.get $at) (local.get $end)))
          (local.set $byte (i32.load8_u (local.get $at)))
          (if (i32.eq (local.get $byte) (i32.const 0x22)) ;; "
            (then
              (local.set $close (call $string-end (local.get $at) (local.get $end)))
              (if (local.get $named)
                (then
                  (return
                    (i32.add (local.get $at) (i32.const 1))
                    (i32.sub (i32.sub (local.get $close) (local.get $at)) (i32.const 1)))))
              ;; A name is what a colon follows.
              (local.set $named
                (i32.and
                  (i32.and
                    (i32.eq (local.get $depth) (i32.const 1))
                    (i32.eq (i32.sub (local.get $close) (local.get $at)) (i32.const 5)))
                  (i32.and
                    (i32.eq (i32.load align=1 (i32.add (local.get $at) (i32.const 1))) (i32.const 0x656d616e)) ;; name
                    (i32.eq (i32.load8_u (i32.add (local.get $close) (i32.const 1))) (i32.const 0x3a))))) ;; :
              (local.set $at (i32.add (local.get $close) (i32.const 1)))
              (br $next)))
          (if (i32.eq (i32.or (local.get $byte) (i32.const 0x20)) (i32.const 0x7b)) ;; { or [
            (then (local.set $depth (i32.add (local.get $depth) (i32.const 1)))))
          (if (i32.eq (i32.or (local.get $byte) (i32.const 0x20)) (i32.const 0x7d)) ;; } or ]
            (then (local.set $depth (i32.sub (local.get $depth) (i32.const 1)))))
          ;; Anything but the colon means that the member's value is no string.
          (if (i32.ne (local.get $byte) (i32.const 0x3a))
            (then (local.set $named (i32.const 0))))
          (local.set $at (i32.add (local.get $at) (i32.const 1)))
          (br $next)))
      (i32.const 72) (i32.const 5))

    ;; The event's record lies at $event; the body is its eighth field, at 72.
    (func (export "handle") (param $event i32) (result i32)
      (local $at i32) (local $length i32) (local $body i32) (local $reply i32)
      (call $name
        (i32.load offset=72 (local.get $event))
        (i32.add (i32.load offset=72 (local.get $event)) (i32.load offset=76 (local.get $event))))
      (local.set $length)
      (local.set $at)
      (local.set $body (call $allocate (i32.const 1) (i32.add (local.get $length) (i32.const 23))))
      (memory.copy (local.get $body) (i32.const 32) (i32.const 20))
      (memory.copy (i32.add (local.get $body) (i32.const 20)) (local.get $at) (local.get $length))
      (memory.copy
        (i32.add (i32.add (local.get $body) (i32.const 20)) (local.get $length)) (i32.const 64) (i32.const 3))
      ;; status, content-type, headers, body
      (local.set $reply (call $allocate (i32.const 4) (i32.const 28)))
      (i32.store16 (local.get $reply) (i32.const 200))
      (i32.store offset=4 (local.get $reply) (i32.const 16))
      (i32.store offset=8 (local.get $reply) (i32.const 16))
      (i32.store offset=12 (local.get $reply) (i32.const 0))
      (i32.store offset=16 (local.get $reply) (i32.const 0))
      (i32.store offset=20 (local.get $reply) (local.get $body))
      (i32.store offset=24 (local.get $reply) (i32.add (local.get $length) (i32.const 23)))
      (local.get $reply)))

  (core instance $hello (instantiate $hello))

  (type $caller (record (field "id" string) (field "roles" (list string)) (field "scopes" (list string))))
  (type $signal (record (field "pointer" string) (field "kind" string)))
  (type $event (record
    (field "request-id" string)
    (field "caller" $caller)
    (field "method" string)
    (field "rest" string)
    (field "query" string)
    (field "headers" (list (tuple string string)))
    (field "content-type" string)
    (field "body" (list u8))
    (field "raw" (option (list u8)))
    (field "signals" (list $signal))))
  (type $response (record
    (field "status" u16)
    (field "content-type" string)
    (field "headers" (list (tuple string string)))
    (field "body" (list u8))))
  (func $handle (param "event" $event) (result $response)
    (canon lift
      (core func $hello "handle")
      (memory (core memory $hello "memory"))
      (realloc (core func $hello "realloc"))))
  (instance $handler
    (export "caller" (type $caller))
    (export "signal" (type $signal))
    (export "event" (type $event))
    (export "response" (type $response))
    (export "handle" (func $handle)))
  (export "sandgate:function/handler@0.1.0" (instance $handler)))
