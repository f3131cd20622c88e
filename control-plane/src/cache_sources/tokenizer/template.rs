//! A model's chat template: Jinja as `transformers` sets it up, in Rust.
//!
//! Its arguments; of equal names the first counts: the request's messages, tools and settings, the
//! request's `chat_template_kwargs`, the operator's `templateKwargs`, the tokenizer's special
//! tokens.
//!
//! Invariants:
//! * rendering ends: it has a budget of steps by the length of the conversation, so that a short
//!   one cannot occupy a thread for long, and no template can reach a file or another template;
//! * an error says nothing of the conversation.

use minijinja::{Environment, Error, ErrorKind, Value, syntax::SyntaxConfig};

use super::{
    ContentFormat, Failure,
    chat::Chat,
    conversation::{self, attribute, map, with},
    python, quirks,
};

/// Steps that every rendering may take: some milliseconds. A message takes some dozens, and what is
/// copied a step for each 64 bytes.
const LEAST_FUEL: u64 = 100_000;

/// Further steps for each byte of the conversation: enough to copy all of it for every one of 500
/// messages, as templates do that gather their text in a variable.
const FUEL_PER_BYTE: u64 = 16;

/// Marks where the last message ends when it is to be continued; the name that `transformers` uses.
const TAG: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

const DEFAULT: &str = "default";
const TOOL_USE: &str = "tool_use";

/// See the module.
#[derive(Debug)]
pub(super) struct ChatTemplate {
    environment: Environment<'static>,
    format: ContentFormat,
    has_tool_use: bool,
    reads_clock: bool,
    /// Tools are rendered in a way that cannot be followed.
    misreads_tools: bool,
    /// Default arguments of every rendering; of equal names the last counts.
    known: Vec<(String, Value)>,
}

/// A template's text, and another one for requests with tools, if the model has one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TemplateSource {
    pub(super) default: String,
    pub(super) tool_use: Option<String>,
}

// === ChatTemplate ===

impl ChatTemplate {
    /// Compiles a template. `format` is found in it when it is not given.
    ///
    /// # Errors
    /// Where its text is wrong, or goes beyond what is understood.
    pub(super) fn compile(
        source: TemplateSource,
        format: Option<ContentFormat>,
        known: Vec<(String, Value)>,
    ) -> Result<Self, Error> {
        let mut environment = environment();
        let TemplateSource { default, tool_use } = source;
        let format = format.unwrap_or_else(|| ContentFormat::of(&default));
        let any = |has: fn(&str) -> bool| has(&default) || tool_use.as_deref().is_some_and(has);
        if any(quirks::escapes) {
            return Err(Error::new(
                ErrorKind::InvalidOperation,
                "the filter `safe` makes Jinja escape what is added",
            ));
        }
        let (reads_clock, misreads_tools) = (
            any(|text| text.contains("strftime_now")),
            any(quirks::takes_methods),
        );
        let has_tool_use = tool_use.is_some();
        environment.add_template_owned(DEFAULT, quirks::normal(&default))?;
        if let Some(tool_use) = tool_use {
            environment.add_template_owned(TOOL_USE, quirks::normal(&tool_use))?;
        }
        Ok(Self {
            environment,
            format,
            has_tool_use,
            reads_clock,
            misreads_tools,
            known,
        })
    }

    /// Whether the same conversation may be another text tomorrow.
    pub(super) fn reads_clock(&self) -> bool {
        self.reads_clock
    }

    /// The text of the whole conversation.
    pub(super) fn render(&self, chat: &Chat) -> Result<String, Failure> {
        let mut messages =
            conversation::messages(&conversation::json(&chat.messages)?, self.format)?;
        let tools = match &chat.tools {
            Some(raw) => Some(conversation::tools(&conversation::json(raw)?)?),
            None => None,
        };
        if chat.continues && chat.generates {
            // Engines refuse what cannot be both.
            return Err(Failure::Malformed);
        }
        if tools.is_some() && self.misreads_tools {
            return Err(Failure::Template);
        }
        let last = if chat.continues {
            Some(open_end(&mut messages)?)
        } else {
            None
        };
        let name = if self.has_tool_use && tools.is_some() {
            TOOL_USE
        } else {
            DEFAULT
        };
        let context = self.context(chat, messages, tools)?;
        // A clone shares the templates; only the budget is its own.
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(LEAST_FUEL + FUEL_PER_BYTE * chat.bytes() as u64));
        let template = environment
            .get_template(name)
            .map_err(|_| Failure::Template)?;
        let text = template.render(context).map_err(|_| Failure::Template)?;
        match last {
            Some(last) => until_tag(text, &last),
            None => Ok(text),
        }
    }

    /// All arguments of the template.
    fn context(
        &self,
        chat: &Chat,
        messages: Vec<Value>,
        tools: Option<Value>,
    ) -> Result<Value, Failure> {
        let nothing = Value::from(());
        let mut fields = vec![(Value::from("documents"), nothing.clone())];
        fields.extend(
            self.known
                .iter()
                .map(|(name, value)| (Value::from(name.as_str()), value.clone())),
        );
        fields.extend(chat.kwargs()?);
        let own = [
            ("messages", Value::from(messages)),
            ("tools", tools.unwrap_or(nothing)),
            ("add_generation_prompt", Value::from(chat.generates)),
        ];
        fields.extend(own.map(|(name, value)| (Value::from(name), value)));
        // The last of equal names counts.
        Ok(Value::from_pairs(fields))
    }
}

/// Marks the end of the last message, and answers its text.
fn open_end(messages: &mut [Value]) -> Result<String, Failure> {
    let last = messages.last_mut().ok_or(Failure::Malformed)?;
    let content = attribute(last, "content").ok_or(Failure::Malformed)?;
    if let Some(text) = content.as_str() {
        let text = text.to_owned();
        *last = with(last, "content", Value::from(format!("{text}{TAG}")))?;
        return Ok(text);
    }
    let mut parts = conversation::items(&content)?;
    let part = parts.last_mut().ok_or(Failure::Malformed)?;
    let text = attribute(part, "text")
        .map(|text| text.to_string())
        .ok_or(Failure::Malformed)?;
    *part = map([
        ("type", Value::from("text")),
        ("text", Value::from(format!("{text}{TAG}"))),
    ]);
    *last = with(last, "content", Value::from(parts))?;
    Ok(text)
}

/// What comes before the mark; templates that trim messages have taken its space, and then the
/// message's too.
fn until_tag(mut text: String, last: &str) -> Result<String, Failure> {
    if !text.contains(last.trim()) {
        return Err(Failure::Template);
    }
    let at = text.rfind(TAG.trim_end()).ok_or(Failure::Template)?;
    let keeps_space = text[at..].starts_with(TAG);
    text.truncate(at);
    if !keeps_space {
        text.truncate(text.trim_end().len());
    }
    Ok(text)
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build();
    // Only delimiters of one's own can be wrong.
    environment.set_syntax(syntax.unwrap_or_default());
    python::add_to(&mut environment);
    environment
}

#[cfg(test)]
mod tests;
