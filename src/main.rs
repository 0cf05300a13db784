//! The `upscaled` program: everything lives in the libraries.

fn main() -> std::process::ExitCode {
    upscaled::cli::main()
}
