//! What one file of Rust declares and names.

use crate::{
    source::closing,
    tokens::{Token, tokens},
};

/// The items of one file.
#[derive(Debug, Default)]
pub struct Items {
    /// `mod name;`
    pub modules: Vec<String>,
    /// Each leaf of each `use`.
    pub imports: Vec<Import>,
    /// Structs, enums, traits, unions and type aliases with their lines; not those inside
    /// functions, and not the types of a trait or an `impl`.
    pub types: Vec<(String, usize)>,
    /// Every name that the module defines: types, functions, constants, statics and macros.
    pub names: Vec<String>,
    /// The types that an `impl` block is for.
    pub implemented: Vec<String>,
    /// Functions and methods.
    pub functions: Vec<Function>,
    /// Variants of enums, as (enum, variant).
    pub variants: Vec<(String, String)>,
    /// Paths outside of `use`, such as `super::limits::MAX`: at least two segments, the first in
    /// lower case.
    pub paths: Vec<Vec<String>>,
    /// Every word of the code outside of `use`.
    pub words: Vec<String>,
}

/// One leaf of a `use` declaration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// Whether it is a re-export (`pub use`, with any visibility).
    pub is_public: bool,
    /// The path; the last segment is `*` for a glob.
    pub path: Vec<String>,
    /// The name that it is known by in this file.
    pub name: String,
}

/// A function or a method.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// The type or trait whose block it is in. `None` for a function of the module.
    pub owner: Option<String>,
    /// Its first line.
    pub line: usize,
    /// How many lines it has.
    pub lines: usize,
}

/// What a pair of braces belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Block {
    Module,
    /// An `impl` or a trait.
    Owner(String),
    Enum(String),
    Function,
    Other,
}

struct Reader<'a> {
    tokens: Vec<Token<'a>>,
    at: usize,
    /// The blocks that are open, innermost last.
    open: Vec<Block>,
    /// What the next opening brace begins.
    next: Block,
    items: Items,
}

// === Items ===

impl Items {
    /// Reads code without comments and strings.
    #[must_use]
    pub fn read(code: &str) -> Self {
        let mut reader = Reader {
            tokens: tokens(code),
            at: 0,
            open: Vec::new(),
            next: Block::Other,
            items: Self::default(),
        };
        while reader.at < reader.tokens.len() {
            reader.step();
        }
        reader.items
    }
}

// === Reader ===

impl Reader<'_> {
    fn step(&mut self) {
        let begins = self.begins_item();
        match self.text(0) {
            "{" => {
                let block = std::mem::replace(&mut self.next, Block::Other);
                self.open.push(block);
            }
            "}" => {
                self.open.pop();
            }
            "[" if self.is_in_enum() => self.at = closing(&self.tokens, self.at),
            "(" if self.is_in_enum() => self.payload(),
            "use" if begins => return self.import(),
            "mod" if begins => self.module(),
            "impl" if begins => self.implementation(),
            "fn" if begins && self.is_name(1) => self.function(),
            "struct" | "enum" | "trait" | "union" | "type" | "const" | "static"
                if begins
                    && self.is_name(1)
                    && !matches!(self.text(1), "fn" | "unsafe" | "async") =>
            {
                self.definition();
            }
            "macro_rules" if self.text(1) == "!" => self.define(self.text(2).to_owned()),
            _ if self.is_in_enum() => self.variant(),
            _ => self.path(),
        }
        self.at += 1;
    }

    fn text(&self, ahead: usize) -> &str {
        self.tokens
            .get(self.at + ahead)
            .map_or("", |token| token.text)
    }

    fn before(&self) -> &str {
        let before = self.at.checked_sub(1);
        before.map_or("", |before| self.tokens[before].text)
    }

    fn is_name(&self, ahead: usize) -> bool {
        self.tokens.get(self.at + ahead).is_some_and(Token::is_name)
    }

    fn begins_item(&self) -> bool {
        let starts = [
            "", ";", "}", "{", "]", "pub", "unsafe", "async", "const", "extern", "default",
        ];
        let before = self.before();
        starts.contains(&before) || before == ")" && self.is_after_visibility()
    }

    /// Whether `pub(…)` ends before this token.
    fn is_after_visibility(&self) -> bool {
        let opening = self.tokens[..self.at]
            .iter()
            .rposition(|token| token.text == "(");
        opening.is_some_and(|open| open > 0 && self.tokens[open - 1].text == "pub")
    }

    fn is_in_function(&self) -> bool {
        self.open.contains(&Block::Function)
    }

    fn is_in_enum(&self) -> bool {
        matches!(self.open.last(), Some(Block::Enum(_)))
    }

    fn owner(&self) -> Option<String> {
        match self.open.last() {
            Some(Block::Owner(name)) => Some(name.clone()),
            _ => None,
        }
    }

    fn define(&mut self, name: String) {
        if !self.is_in_function() && self.owner().is_none() {
            self.items.names.push(name);
        }
    }

    fn module(&mut self) {
        if self.text(2) == ";" {
            self.items.modules.push(self.text(1).to_owned());
        } else {
            self.next = Block::Module;
        }
    }

    /// `struct`, `enum`, `trait`, `union`, `type`, `const` or `static`.
    fn definition(&mut self) {
        let (kind, name) = (self.text(0).to_owned(), self.text(1).to_owned());
        let is_type = !matches!(kind.as_str(), "const" | "static");
        if is_type && !self.is_in_function() && self.owner().is_none() {
            let line = self.tokens[self.at].line;
            self.items.types.push((name.clone(), line));
        }
        match kind.as_str() {
            "enum" => self.next = Block::Enum(name.clone()),
            "trait" => self.next = Block::Owner(name.clone()),
            _ => {}
        }
        self.define(name);
        self.at += 1;
    }

    fn function(&mut self) {
        let name = self.text(1).to_owned();
        let line = self.tokens[self.at].line;
        let mut end = self.at;
        // The body begins at the first brace outside of brackets; a trait's function may have none.
        while let Some(token) = self.tokens.get(end) {
            match token.text {
                "(" | "[" => end = closing(&self.tokens, end),
                "{" | ";" => break,
                _ => {}
            }
            end += 1;
        }
        if self.tokens.get(end).is_some_and(|token| token.text == "{") {
            end = closing(&self.tokens, end);
            self.next = Block::Function;
        }
        let last = self.tokens.get(end).map_or(line, |token| token.line);
        self.define(name.clone());
        let owner = self.owner();
        let lines = last - line + 1;
        self.items.functions.push(Function {
            name,
            owner,
            line,
            lines,
        });
        self.at += 1;
    }

    /// `impl<T> Trait for Type<T> {`: the type is the last word outside of angle brackets, before
    /// `where` or the brace.
    fn implementation(&mut self) {
        let (mut depth, mut name) = (0_usize, String::new());
        let mut at = self.at + 1;
        while let Some(token) = self.tokens.get(at) {
            match token.text {
                "<" => depth += 1,
                ">" if self.tokens[at - 1].text != "-" => depth = depth.saturating_sub(1),
                "{" | "where" if depth == 0 => break,
                "(" | "[" => at = closing(&self.tokens, at),
                _ if depth == 0 && token.is_name() => token.text.clone_into(&mut name),
                _ => {}
            }
            at += 1;
        }
        self.items.implemented.push(name.clone());
        self.next = Block::Owner(name);
    }

    /// A variant follows the opening brace, a comma, or an attribute.
    fn variant(&mut self) {
        let starts = ["{", ",", "]"].contains(&self.before());
        if let (true, true, Some(Block::Enum(owner))) = (starts, self.is_name(0), self.open.last())
        {
            self.items
                .variants
                .push((owner.clone(), self.text(0).to_owned()));
        }
    }

    /// The types in the parentheses of a variant.
    fn payload(&mut self) {
        let end = closing(&self.tokens, self.at);
        while self.at < end {
            self.path();
            self.at += 1;
        }
    }

    fn path(&mut self) {
        if !self.is_name(0) {
            return;
        }
        let first = self.at;
        let mut path = vec![self.text(0).to_owned()];
        while self.text(1) == "::" && self.is_name(2) {
            path.push(self.text(2).to_owned());
            self.at += 2;
        }
        let is_relative = first == 0 || self.tokens[first - 1].text != "::";
        self.items.words.extend(path.iter().cloned());
        if path.len() > 1 && is_relative && path[0].starts_with(|first: char| first.is_lowercase())
        {
            self.items.paths.push(path);
        }
    }

    fn import(&mut self) {
        let is_public = matches!(self.before(), "pub" | ")");
        self.at += 1;
        self.branch(&[], is_public);
        while !matches!(self.text(0), ";" | "") {
            self.at += 1;
        }
        self.at += 1;
    }

    /// One branch of the tree of a `use`: up to a comma, a closing brace or the semicolon, which
    /// stays.
    fn branch(&mut self, before: &[String], is_public: bool) {
        let mut path = before.to_vec();
        let mut name = None;
        loop {
            match self.text(0) {
                "{" => {
                    self.at += 1;
                    while !matches!(self.text(0), "}" | "") {
                        self.branch(&path, is_public);
                        if self.text(0) == "," {
                            self.at += 1;
                        }
                    }
                    self.at += 1;
                    return;
                }
                "," | "}" | ";" | "" => break,
                "as" => {
                    name = Some(self.text(1).to_owned());
                    self.at += 1;
                }
                "::" => {}
                segment => path.push(segment.to_owned()),
            }
            self.at += 1;
        }
        if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
            path.pop();
        }
        let name = name.or_else(|| path.last().cloned()).unwrap_or_default();
        self.items.imports.push(Import {
            is_public,
            path,
            name,
        });
    }
}

#[cfg(test)]
mod tests;
