//! `hermes check`: everything that is wrong with a configuration file, or what it means.

mod meaning;

use std::{
    fs::File,
    io::{self, Read, stdin},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;
use hermes_control_plane::{
    cache_sources::tokenizer::{Way, describe},
    config::{AuthorityFiles, Config, MAX_BYTES},
};

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
    let bytes = read(path).map_err(|source| Failure::Read {
        path: path.clone(),
        source,
    })?;
    let name = path.display();
    match Config::parse_bytes(&bytes) {
        Ok(config) => {
            output::line(format_args!("{name}: right"))?;
            output::line(Meaning(&config))?;
            let are_read = check_authorities(&config);
            Ok(if check_tokenizers(&config)? && are_read {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            })
        }
        Err(errors) => {
            let (count, noun) = (
                errors.len(),
                if errors.len() == 1 { "error" } else { "errors" },
            );
            eprintln!("{name}: {count} {noun}\n{errors}");
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Reports every file of CA certificates that is unusable; whether there is none. The control plane
/// would reject the configuration.
fn check_authorities(config: &Config) -> bool {
    let complete = AuthorityFiles::of(config).complete(config.clone());
    complete.inspect_err(|errors| eprintln!("{errors}")).is_ok()
}

/// Says what every tokenizer's files hold, or what is wrong with them; whether all are usable. The
/// control plane would start without them, and know less.
fn check_tokenizers(config: &Config) -> Result<bool, Failure> {
    let mut usable = true;
    for pool in &config.pools {
        let Some(Way::Files(files)) = pool.tokenizer.as_ref().map(|tokenizer| &tokenizer.way)
        else {
            continue;
        };
        match describe(files) {
            Ok(held) => output::line(format_args!("tokenizer of pool {}: {held}", pool.name))?,
            Err(unusable) => {
                eprintln!("tokenizer of pool {}: {unusable}", pool.name);
                usable = false;
            }
        }
    }
    Ok(usable)
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
