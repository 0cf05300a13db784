# Sourced by the other scripts: finds a Rust toolchain that is not on PATH in a plain shell,
# and prefers rustup's to a distribution's, which may be too old.
if [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ]; then
  PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
  export PATH
fi
