//! `hermes check`: everything that is wrong with a configuration file, or what it means.

mod meaning;

use std::{
    fs::File,
    io::{self, Read, stdin},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;
use hermes_control_plane::config::{Config, MAX_BYTES};

use self::meaning::Meaning;
use crate::{failure::Failure, output};

/// The command line of `hermes check`.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The configuration file (YAML); `-` reads standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Checks the file; what is wrong goes to standard error.
pub(crate) fn run(args: &CheckArgs) -> Result<ExitCode, Failure> {
    let path = &args.file;
    let bytes = read(path).map_err(|source| Failure::Read { path: path.clone(), source })?;
    let name = path.display();
    match Config::parse_bytes(&bytes) {
        Ok(config) => {
            output::line(format_args!("{name}: right"))?;
            output::line(Meaning(&config))?;
            Ok(ExitCode::SUCCESS)
        }
        Err(mistakes) => {
            let (count, noun) = (mistakes.len(), if mistakes.len() == 1 { "mistake" } else { "mistakes" });
            eprintln!("{name}: {count} {noun}\n{mistakes}");
            Ok(ExitCode::FAILURE)
        }
    }
}

/// One byte over the limit is enough for the parser to refuse the rest.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let limit = MAX_BYTES as u64 + 1;
    if path == Path::new("-") {
        stdin().lock().take(limit).read_to_end(&mut bytes)?;
    } else {
        File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}
