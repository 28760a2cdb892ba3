#!/usr/bin/env bash
# Builds the components of the sample functions, and of the tests' guests, from the sources beside them, and notes in each
# SOURCES.sha256 what was built from what.
#
#   functions/build.sh [FUNCTION…]           build; functions are named as `acme/invoice`, guests as `guests/count`; default: all
#   functions/build.sh --check [FUNCTION…]   build elsewhere and compare with what is committed
#
# Rust: any rustc with the target wasm32-unknown-unknown (`rustup target add wasm32-unknown-unknown`). Where a rustup
# target cannot be had, Debian's `rustc-web` with its sources is unpacked (not installed) and std is built along.
# C: `zig` from PyPI's `ziglang`. Binaryen's `wasm-opt` and the library of `jco` from npm make a component of a core
# module; nothing but the function's one export goes into it. Guests are of the world `wasi:http/proxy` as jco ships it, and
# know nothing of Sandgate. What is downloaded is kept in target/guests, or in
# $SANDGATE_GUEST_TOOLS. Versions are pinned but for Debian's compiler, which is noted.
#
# `globex/triage`, `guests/javascript` and `guests/python` are built when named: with their interpreters they have 13 to 19 MB,
# so they are not committed, and tests that need them are skipped where they were not built. A sample's `function.toml` is then
# a link to its `manifest.toml`, laid when the component is there: the site has the function from then on.
set -euo pipefail

readonly ALL=(acme/invoice acme/render globex/calendar guests/anything guests/count guests/hostile)
readonly COMPONENTIZE_JS=0.23.0 COMPONENTIZE_PY=0.25.0
readonly JCO=1.35.0 BINARYEN=130.0.0 ZIG=0.17.1 TARGET=wasm32-unknown-unknown

main() {
  cd "$(dirname "$0")"
  functions=$PWD
  tools=${SANDGATE_GUEST_TOOLS:-$(dirname "$functions")/target/guests}
  mkdir -p "$tools"
  tools=$(cd "$tools" && pwd)
  out=$(mktemp -d "$tools/run.XXXXXX")
  trap 'rm -r "$out"' EXIT
  local check=no failed=0
  if [ "${1:-}" = --check ]; then check=yes; shift; fi
  [ $# -gt 0 ] || set -- "${ALL[@]}"
  for function in "$@"; do
    case "$function" in
      guests/*)
        cd "$functions/../tests/$function"
        world=wasi:http/proxy common=
        [ -f Cargo.toml ] || common=../wasi_http.h ;;
      *) cd "$functions/$function"; world=function; common=../../wit/function.wit ;;
    esac
    core=$out/${function#*/}.core.wasm
    component=$out/${function#*/}.wasm
    if [ -f train.py ]; then python3 train.py --check; fi
    if [ -f app.js ]; then build_javascript; keep_uncommitted; continue; fi
    if [ -f app.py ]; then build_python; keep_uncommitted; continue; fi
    if [ -f Cargo.toml ]; then build_rust; else build_c; fi
    componentize
    if [ $check = yes ]; then compare || failed=1; else keep; fi
  done
  return $failed
}

build_rust() {
  find_rust
  "${cargo[@]}" build --quiet --locked --release --lib --target $TARGET "${rust_flags[@]}"
  cp "$CARGO_TARGET_DIR/$TARGET/release/${function#*/}.wasm" "$core"
  by="$rust, binaryen $BINARYEN, jco $JCO"
}

build_c() {
  find_zig
  local objects=$out/${function#*/}
  mkdir "$objects"
  for source in *.c; do
    "${zig[@]}" cc -c -target wasm32-freestanding -std=c17 -Oz -mbulk-memory -fno-sanitize=all \
      -Wall -Wextra -Werror "$source" -o "$objects/${source%.c}.o"
  done
  # The stack lies below the data, so that an overflow traps instead of overwriting.
  "${zig[@]}" wasm-ld --no-entry --strip-all --gc-sections --stack-first -z stack-size=8192 \
    -o "$core" "$objects"/*.o
  by="zig $ZIG, binaryen $BINARYEN, jco $JCO"
}

# Fetch events stay; what is left out is what the gateway has nothing for. A model goes in front of its program.
build_javascript() {
  find_npm
  [ -d "$tools/js/node_modules" ] || npm install --silent --no-save --no-package-lock --prefix "$tools/js" \
    "@bytecodealliance/componentize-js@$COMPONENTIZE_JS" >/dev/null
  proxy_wit 0.2.10
  (cd "$tools/js" && node --input-type=module - "$OLDPWD" "$out/wit-0.2.10" "$component" <<'EOF'
import { componentize } from '@bytecodealliance/componentize-js';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
const [folder, witPath, to] = process.argv.slice(2);
const read = (name) => readFileSync(`${folder}/${name}`, 'utf8');
const model = existsSync(`${folder}/model.json`) ? `const MODEL = ${read('model.json')};` : '';
const { component } = await componentize(model + read('app.js'), {
  sourceName: 'app.js', witPath, worldName: 'function', disableFeatures: ['random', 'stdio', 'http'],
});
writeFileSync(to, component);
EOF
  )
  by="componentize-js $COMPONENTIZE_JS"
}

build_python() {
  find_npm
  [ -x "$tools/python/bin/python" ] || python3 -m venv "$tools/python"
  "$tools/python/bin/pip" install --quiet --disable-pip-version-check componentize-py==$COMPONENTIZE_PY
  proxy_wit 0.2.12
  "$tools/python/bin/componentize-py" --quiet --wit-path "$out/wit-0.2.12" --world function componentize app \
    --output "$component"
  by="componentize-py $COMPONENTIZE_PY"
}

# The world `wasi:http/proxy` without `outgoing-handler`, for tools that read a folder of WIT.
proxy_wit() {
  [ ! -d "$out/wit-$1" ] || return 0
  mkdir -p "$out/wit-$1/deps"
  cp -r "$tools/node_modules/@bytecodealliance/jco/lib/wit/builtin/0.2.12"/wasi-* "$out/wit-$1/deps/"
  cat > "$out/wit-$1/world.wit" <<'EOF'
package sample:guest;
world function { import wasi:http/types@0.2.12; export wasi:http/incoming-handler@0.2.12; }
EOF
  find "$out/wit-$1" -name '*.wit' -exec sed -i "s/0\.2\.12/$1/g" {} +
}

# Core module → component. Rust's bindings bring the type of the world along; to others it is added.
componentize() {
  find_npm
  "$tools/node_modules/.bin/wasm-opt" -Os --enable-bulk-memory --enable-bulk-memory-opt --enable-sign-ext \
    --enable-mutable-globals --enable-nontrapping-float-to-int --enable-multivalue --enable-reference-types \
    --enable-call-indirect-overlong "$core" -o "$core"
  (cd "$tools" && node --input-type=module - "$core" "$component" "$world" "$functions/wit/function.wit" <<'EOF'
import { componentEmbed, componentNew } from '@bytecodealliance/jco';
import { readFileSync, readdirSync, writeFileSync } from 'node:fs';
const [core, component, world, wit] = process.argv.slice(2);
const WASI = 'node_modules/@bytecodealliance/jco/lib/wit/builtin/0.2.12';
// One text: packages within the package of the guest.
const nested = (name) => readFileSync(`${WASI}/${name}/package.wit`, 'utf8').replace(/^package ([^;]+);/m, 'package $1 {') + '}\n';
const source = () => world === 'function'
  ? readFileSync(wit, 'utf8')
  : 'package sample:guest;\nworld function { include wasi:http/proxy@0.2.12; include wasi:cli/imports@0.2.12; }\n' +
    readdirSync(WASI).map(nested).join('');
let module = readFileSync(core);
if (!module.includes('component-type')) {
  module = await componentEmbed({ binary: module, witSource: source(), worldName: 'function' });
}
writeFileSync(component, await componentNew(module, null));
EOF
  )
}

find_rust() {
  [ -z "${rust:-}" ] || return 0
  # The caller's own flags would give other bytes.
  unset CARGO_ENCODED_RUSTFLAGS
  RUSTFLAGS=
  rust_flags=()
  cargo=(cargo)
  local sources
  export CARGO_TARGET_DIR=$tools/cargo
  if [ -d "$(rustc --print target-libdir --target $TARGET)" ]; then
    rust=$(rustc --version)
    sources=$(rustc --print sysroot)/lib/rustlib/src/rust
    echo "Rust: $rust with its target $TARGET"
  else
    find_debian_rust
  fi
  # No path of the machine ends up in a component: panic messages would carry them.
  RUSTFLAGS="$RUSTFLAGS --remap-path-prefix=$sources=/rust --remap-path-prefix=$functions=/functions"
  export RUSTFLAGS="$RUSTFLAGS --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo"
}

find_debian_rust() {
  local root=$tools/debian lld std llvm
  if [ ! -x "$root/usr/bin/rustc" ]; then
    command -v apt-get >/dev/null || { echo "no target $TARGET: rustup target add $TARGET" >&2; exit 2; }
    echo "Rust: no target $TARGET here; unpacking Debian's rustc-web"
      apt-get update -qq
    std=$(apt-cache depends libstd-rust-web-dev | sed -n 's/.*Depends: \(libstd-rust-web-[0-9.]*\)$/\1/p')
    llvm=$(apt-cache depends "$std" | sed -n 's/.*Depends: \(libllvm[0-9]*\)$/\1/p')
    mkdir -p "$root"
    (cd "$root" && apt-get download -qq -o APT::Sandbox::User=root rustc-web "$std" libstd-rust-web-dev rust-web-src "$llvm")
    for package in "$root"/*.deb; do dpkg -x "$package" "$root"; done
  fi
  # Linker: rustup's own, or any on PATH.
  lld=$(rustc --print sysroot)/lib/rustlib/x86_64-unknown-linux-gnu/bin/rust-lld
  [ -x "$lld" ] || lld=$(command -v rust-lld wasm-ld lld | head -n 1)
  # rustup's `cargo` would set its own library path before Debian's.
  cargo=(env "LD_LIBRARY_PATH=$root/usr/lib/x86_64-linux-gnu" "RUSTC=$root/usr/bin/rustc" RUSTC_BOOTSTRAP=1
    "CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER=$lld" "$(rustc --print sysroot)/bin/cargo")
  rust_flags=("-Zbuild-std=std,panic_abort" -Zbuild-std-features=optimize_for_size)
  # Where a panic was is of no use: it ends as a trap.
  RUSTFLAGS="-Zlocation-detail=none"
  sources=$root/usr/lib/rustlib/src/rust
  rust="$(LD_LIBRARY_PATH=$root/usr/lib/x86_64-linux-gnu "$root/usr/bin/rustc" --version), std built along"
  echo "Rust: Debian's $rust"
}

find_zig() {
  [ -z "${zig:-}" ] || return 0
  [ -x "$tools/zig/bin/python" ] || python3 -m venv "$tools/zig"
  "$tools/zig/bin/pip" install --quiet --disable-pip-version-check ziglang==$ZIG
  zig=("$tools/zig/bin/python" -m ziglang)
  export ZIG_GLOBAL_CACHE_DIR=$tools/zig-cache ZIG_LOCAL_CACHE_DIR=$tools/zig-cache
  echo "C: zig $ZIG"
}

find_npm() {
  [ -z "${npm_found:-}" ] || return 0
  npm_found=yes
  if [ "$(cat "$tools/npm.versions" 2>/dev/null)" != "$JCO $BINARYEN" ]; then
    npm install --silent --no-save --no-package-lock --prefix "$tools" \
      "@bytecodealliance/jco@$JCO" "binaryen@$BINARYEN" >/dev/null
    echo "$JCO $BINARYEN" > "$tools/npm.versions"
  fi
  echo "Components: binaryen $BINARYEN, jco $JCO"
}

# The files that a component is made of, in a fixed order.
sources() {
  ([ -z "$common" ] || echo "$common"; find . -type f \( -name '*.rs' -o -name '*.[ch]' -o -name 'Cargo.*' \)) |
    sed 's,^\./,,' | LC_ALL=C sort
}

keep() {
  local name=${function#*/}
  cp "$component" "$name.wasm"
  { echo "# $by"; sources | xargs sha256sum; sha256sum "$name.wasm"; } > SOURCES.sha256
  echo "$function: $(stat -c %s "$name.wasm") bytes"
}

# The component whole and at once, since a gateway may be watching; then the manifest, which makes a function of it.
keep_uncommitted() {
  [ $check = no ] || { echo "$function: builds; not compared, since its component is not committed"; return; }
  local name=${function#*/}
  mv "$component" "$name.wasm"
  [ ! -f manifest.toml ] || ln -sf manifest.toml function.toml
  echo "$function: $(stat -c %s "$name.wasm") bytes by $by"
}

compare() {
  local name=${function#*/} was
  if ! sha256sum --quiet --check SOURCES.sha256; then
    echo "$function: sources or component have changed since they were noted: run functions/build.sh $function"
    return 1
  fi
  was=$(sed -n '1s/^# //p' SOURCES.sha256)
  if [ "$was" != "$by" ]; then
    echo "$function: builds; not compared, since the committed one is by \`$was\` and this by \`$by\`"
  elif cmp --silent "$component" "$name.wasm"; then
    echo "$function: the committed component is what its sources make"
  else
    echo "$function: the committed component is not what its sources make"
    return 1
  fi
}

main "$@"
