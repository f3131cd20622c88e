//! The inference engines that a pool may consist of.

/// The engine behind a pool's endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum EngineKind {
    /// vLLM.
    #[default]
    Vllm,
    /// SGLang.
    Sglang,
    /// TensorRT-LLM.
    TrtLlm,
    /// Text Generation Inference.
    Tgi,
    /// llama.cpp's server.
    LlamaCpp,
    /// Any OpenAI-compatible server.
    OpenAi,
}

impl EngineKind {
    /// Each engine with its name in the configuration and in metrics.
    pub const ALL: [(&'static str, Self); 6] = [
        ("vllm", Self::Vllm),
        ("sglang", Self::Sglang),
        ("trtllm", Self::TrtLlm),
        ("tgi", Self::Tgi),
        ("llamacpp", Self::LlamaCpp),
        ("openai", Self::OpenAi),
    ];

    /// Its name in the configuration and in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        // `ALL` is in the order of the variants, which a test keeps.
        Self::ALL[self as usize].0
    }

    /// The path of its metrics unless another is configured.
    #[must_use]
    pub const fn metrics_path(self) -> &'static str {
        match self {
            Self::TrtLlm => "/prometheus/metrics",
            Self::Vllm | Self::Sglang | Self::Tgi | Self::LlamaCpp | Self::OpenAi => "/metrics",
        }
    }

    /// Whether it has metrics that are known, which it is then scraped for.
    #[must_use]
    pub const fn has_metrics(self) -> bool {
        !matches!(self, Self::OpenAi)
    }

    /// Whether it is known to publish KV events.
    #[must_use]
    pub const fn publishes_kv_events(self) -> bool {
        matches!(self, Self::Vllm | Self::Sglang)
    }

    /// Whether it may serve `/tokenize` as vLLM does; an unknown server may.
    #[must_use]
    pub const fn may_tokenize(self) -> bool {
        matches!(self, Self::Vllm | Self::OpenAi)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_listed_in_the_order_of_the_variants() {
        for (name, engine) in EngineKind::ALL {
            assert_eq!(engine.name(), name);
        }
    }
}
