//! The `upscaled` program: everything lives in the library.

fn main() -> std::process::ExitCode {
    upscaled::cli::main()
}
