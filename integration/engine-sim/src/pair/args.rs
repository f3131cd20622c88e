//! The command line of an engine's part in pairs.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::sglang::BOOTSTRAP_PORT;
use super::{PairConfig, PairProtocol, PairRole};

#[derive(Clone, Debug, Args)]
pub(crate) struct PairArgs {
    /// The engine's part in prefill/decode pairs. Requests that no engine of that part would
    /// survive are refused and counted: see /sim/pairs, and sim:pair_violations_total at /metrics.
    #[arg(long, value_name = "ROLE", requires = "protocol")]
    role: Option<PairRole>,
    /// How it and its partners find each other.
    #[arg(long, value_name = "NAME", requires = "role")]
    protocol: Option<PairProtocol>,
    /// Tokens of a KV cache that a decode engine reads in a second.
    #[arg(long, value_name = "TOKENS", default_value_t = 1e6)]
    transfer_rate: f64,
    /// How long a prefill engine keeps a KV cache that no decode engine reads, in seconds: vLLM's
    /// kv_lease_duration.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    lease: u32,
    /// The host that a prefill engine names to decode engines. Without it, that is the address on
    /// which it listens, and localhost if that is every address.
    #[arg(long, env = "VLLM_NIXL_SIDE_CHANNEL_HOST", value_name = "HOST")]
    side_channel_host: Option<String>,
    /// The port at which decode engines find a prefill engine. Without it, a free one; for sglang
    /// and vllm-mooncake 8998, which a router has to know.
    #[arg(long, env = "VLLM_NIXL_SIDE_CHANNEL_PORT", value_name = "PORT")]
    side_channel_port: Option<u16>,
}

impl PairArgs {
    /// The part that is asked for, if any.
    pub(crate) fn config(self) -> Option<PairConfig> {
        let protocol = self.protocol?;
        let config = PairConfig::new(self.role?, protocol, &Arc::default());
        let port = match protocol {
            PairProtocol::VllmNixl | PairProtocol::Trtllm => 0,
            PairProtocol::Sglang | PairProtocol::VllmMooncake => BOOTSTRAP_PORT,
        };
        Some(PairConfig {
            transfer_rate: self.transfer_rate,
            lease: Duration::from_secs(self.lease.into()),
            host: self.side_channel_host,
            port: self.side_channel_port.unwrap_or(port),
            ..config
        })
    }
}
