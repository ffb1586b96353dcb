//! The shipped program, built with the tests and like them: what it consists of is the library's.

use std::process::ExitCode;

fn main() -> ExitCode {
    apgar::cli::main()
}
