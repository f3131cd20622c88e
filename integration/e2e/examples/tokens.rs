//! Prints the token ids that Hermes makes of a request, to be compared with what an engine makes of
//! it.
//!
//! ```sh
//! cargo run -p hermes-e2e --example tokens -- --files DIR < body.json
//! cargo run -p hermes-e2e --example tokens -- --engine http://127.0.0.1:8000 --path /v1/completions < body.json
//! ```
//!
//! The body is read as a proxy reads it. Ids are a JSON list on standard output; without any, the
//! exit status is 1 and the reason on standard error.

use std::{
    io::{self, Read, Write},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use clap::Parser;
use hermes_control_plane::cache_sources::tokenizer::{
    ContentFormat, Failure, PoolTokenizer, TokenizeOutcome, TokenizerFiles, TokenizerMetrics,
    TokenizerSettings, Way, describe,
};
use hermes_core::{
    policy::PoolPolicy,
    snapshot::{Endpoint, EndpointId, Pool, PoolSpec, Role},
};
use prometheus_client::registry::Registry;

#[derive(Parser)]
struct Args {
    /// The directory of the model, or its tokenizer.json
    #[arg(long, value_name = "DIR", required_unless_present = "engine")]
    files: Option<PathBuf>,
    /// Another chat template than the model's
    #[arg(long, value_name = "FILE")]
    template: Option<PathBuf>,
    /// string or openai; found in the template when left out
    #[arg(long, value_name = "FORMAT")]
    content_format: Option<String>,
    /// Asks this engine's /tokenize instead
    #[arg(long, value_name = "URL", conflicts_with = "files")]
    engine: Option<String>,
    /// What the body is posted to
    #[arg(long, default_value = "/v1/chat/completions")]
    path: String,
    /// Model to name to the engine
    #[arg(long)]
    model: Option<String>,
}

#[tokio::main]
async fn main() -> io::Result<ExitCode> {
    hermes_runtime::crypto::install_default_crypto();
    let args = Args::parse();
    let mut body = Vec::new();
    io::stdin().lock().read_to_end(&mut body)?;
    let Some(text) = hermes_data_plane::lookup::of(&args.path, &Bytes::from(body)) else {
        return complain("the body has nothing to look up");
    };
    let way = match &args.files {
        Some(path) => {
            let content = args.content_format.as_deref().map(|format| match format {
                "openai" => ContentFormat::Parts,
                _ => ContentFormat::Text,
            });
            let (path, template) = (path.clone(), args.template.clone());
            let files = TokenizerFiles {
                path,
                template,
                content,
                kwargs: serde_json::Map::new(),
            };
            match describe(&files) {
                Ok(held) => eprintln!("{held}"),
                Err(unusable) => return complain(&unusable.to_string()),
            }
            Way::Files(files)
        }
        None => Way::Engine,
    };
    let settings = TokenizerSettings {
        way,
        cache: 1 << 20,
        timeout: Duration::from_secs(60),
        longest: 1 << 20,
        key_file: None,
    };
    let metrics = TokenizerMetrics::register(&mut Registry::default());
    let tokens =
        PoolTokenizer::new("example", settings, metrics.clone()).map_err(io::Error::other)?;
    tokens.follow(&pool(args.engine.as_deref()));
    tokens.settled().await;
    let Some(ids) = tokens.ids(&text, args.model.as_deref()).await else {
        let failures = [
            Failure::Unsupported,
            Failure::Malformed,
            Failure::TooLong,
            Failure::Template,
            Failure::Tokenizer,
        ];
        let why = failures
            .into_iter()
            .find(|failure| metrics.count(TokenizeOutcome::Failed(*failure)) > 0);
        return complain(why.map_or("the engine gave none", Failure::name));
    };
    writeln!(io::stdout().lock(), "{}", serde_json::to_string(&ids)?)?;
    Ok(ExitCode::SUCCESS)
}

fn pool(engine: Option<&str>) -> Pool {
    let spec = PoolSpec::new("example", PoolPolicy::default());
    let endpoint = |url: &str| {
        Arc::new(Endpoint {
            id: EndpointId(1),
            address: url.parse().expect("the URL of an engine"),
            name: "".into(),
            role: Role::Aggregate,
            group: None,
            pairing: hermes_core::snapshot::PairingFacts::default(),
        })
    };
    Pool {
        spec: Arc::new(spec),
        models: hermes_core::collection::Collection::default(),
        endpoints: engine.into_iter().map(endpoint).collect(),
    }
}

fn complain(why: &str) -> io::Result<ExitCode> {
    eprintln!("no ids: {why}");
    Ok(ExitCode::FAILURE)
}
