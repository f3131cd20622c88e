//! Where variables come from: the process, or a closure in a test, so that no test changes the
//! process.

/// A source of environment variables.
pub trait Environment {
    /// The value of `name`; `None` when it is unset.
    fn get(&self, name: &str) -> Option<String>;

    /// The value without surrounding space. As OpenTelemetry asks for, an empty value counts as
    /// unset.
    fn value(&self, name: &str) -> Option<String> {
        let value = self.get(name)?;
        let value = value.trim();
        (!value.is_empty()).then(|| value.to_owned())
    }
}

/// The variables of this process. Bytes that are not UTF-8 are replaced, so that a check of the
/// value refuses them.
#[derive(Clone, Copy, Debug)]
pub struct ProcessEnvironment;

impl Environment for ProcessEnvironment {
    fn get(&self, name: &str) -> Option<String> {
        std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
    }
}

impl<F: Fn(&str) -> Option<String>> Environment for F {
    fn get(&self, name: &str) -> Option<String> {
        self(name)
    }
}
