//! From how a command ended to its exit code, and to the one line a person reads.

use std::process::ExitCode;

use upscaled_core::fault::{Fault, one_line};

/// How a command ended when it did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CommandEnd {
    Done,
    /// The command did its work and found that something needed does not work.
    Wanting,
    /// Some of the files failed, and each was told.
    SomeFailed,
    /// It failed and has said so in its own way.
    Told(Fault),
}

/// The exit code, after the reason was written to standard error.
pub(super) fn code(result: anyhow::Result<CommandEnd>) -> ExitCode {
    let number = match result {
        Ok(CommandEnd::Done) => 0,
        Ok(CommandEnd::Wanting) => 1,
        Ok(CommandEnd::SomeFailed) => 3,
        Ok(CommandEnd::Told(fault)) => of_fault(fault),
        // Whoever read our output has enough of it (`upscaled status | head -1`).
        Err(error) if is_broken_pipe(&error) => 0,
        Err(error) => {
            let fault = Fault::of(&error);
            super::output::complain(&format!("upscaled: {}", one_line(&error)));
            of_fault(fault)
        }
    };
    ExitCode::from(number)
}

/// The exit code of a failure.
fn of_fault(fault: Fault) -> u8 {
    match fault {
        Fault::Config => 2,
        Fault::Stopped | Fault::Cancelled => 130,
        Fault::BadInput
        | Fault::Unsupported
        | Fault::SourceChanged
        | Fault::ModelChanged
        | Fault::NewerState
        | Fault::DamagedState
        | Fault::NoSpace
        | Fault::ReadOnly
        | Fault::NoRamDisk
        | Fault::DeviceMemory
        | Fault::Memory
        | Fault::Device
        | Fault::Encoder
        | Fault::Mismatch
        | Fault::Conflict
        | Fault::Busy
        | Fault::NotFound
        | Fault::Io
        | Fault::Internal => 1,
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<super::output::ReaderGone>().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes() {
        assert_eq!(of_fault(Fault::Config), 2);
        assert_eq!(of_fault(Fault::Stopped), 130);
        assert_eq!(of_fault(Fault::BadInput), 1);
        assert!(is_broken_pipe(&super::super::output::ReaderGone.into()));
        assert!(!is_broken_pipe(&std::io::Error::from(std::io::ErrorKind::BrokenPipe).into()));
    }
}
