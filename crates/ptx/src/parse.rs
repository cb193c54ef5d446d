//! Tokens to directives, functions and statements. Nothing is resolved yet.

use crate::PtxError;
use crate::lex::{Token, tokens};
use crate::types::Ty;

/// Longest variable, so that a damaged size asks for no memory.
const MAX_VARIABLE: u64 = 1 << 28;
/// Largest number of registers of one directive.
const MAX_REGISTERS: u64 = 1 << 16;

/// The text as a tree.
#[derive(Debug, Default)]
pub struct Ast<'a> {
    /// Number of the target: 80 for `sm_80`.
    pub target: u32,
    /// Variables outside of functions.
    pub variables: Vec<Variable<'a>>,
    /// Kernels and device functions that have a body.
    pub functions: Vec<Function<'a>>,
}

/// State space of a variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VarSpace {
    /// `.global` and `.const`
    Global,
    /// `.shared`
    Shared,
    /// `.local`
    Local,
    /// `.param`
    Param,
}

/// A variable in memory.
#[derive(Debug, Clone)]
pub struct Variable<'a> {
    /// Its name.
    pub name: &'a str,
    /// Where it lies.
    pub space: VarSpace,
    /// Alignment in bytes.
    pub align: u64,
    /// Bytes; 0 for an array whose length the launch gives.
    pub bytes: u64,
    /// First bytes of its content; the rest is zero.
    pub init: Vec<u8>,
    /// Addresses in its content: offset, name, addend.
    pub addresses: Vec<(usize, &'a str, u64)>,
}

/// A kernel or device function.
#[derive(Debug)]
pub struct Function<'a> {
    /// Its name.
    pub name: &'a str,
    /// Whether the host may launch it.
    pub entry: bool,
    /// What it returns.
    pub returns: Vec<Variable<'a>>,
    /// What it takes.
    pub params: Vec<Variable<'a>>,
    /// Limits of the block: `.maxntid` or `.reqntid`.
    pub max_threads: Option<u64>,
    /// `.reqntid`
    pub required: Option<[u32; 3]>,
    /// Its statements.
    pub body: Vec<Statement<'a>>,
    /// Line of its name.
    pub line: usize,
}

/// A statement with its line.
#[derive(Debug)]
pub struct Statement<'a> {
    /// Line, from 1.
    pub line: usize,
    /// What it is.
    pub kind: Kind<'a>,
}

/// The statements.
#[derive(Debug)]
pub enum Kind<'a> {
    /// `{`
    Open,
    /// `}`
    Close,
    /// `.reg`: each name with how many registers it stands for, `None` for the bare name.
    Registers(Ty, Vec<(&'a str, Option<u64>)>),
    /// `.local`, `.shared`, `.param` within a function.
    Variable(Variable<'a>),
    /// `name:`
    Label(&'a str),
    /// `name: .branchtargets a, b;`
    Targets(&'a str, Vec<&'a str>),
    /// An instruction.
    Instruction(Instruction<'a>),
}

/// An instruction.
#[derive(Debug)]
pub struct Instruction<'a> {
    /// Predicate, and whether it is negated.
    pub guard: Option<(&'a str, bool)>,
    /// Opcode and modifiers.
    pub opcode: &'a str,
    /// Operands.
    pub operands: Vec<Operand<'a>>,
}

/// An operand.
#[derive(Debug, Clone, PartialEq)]
pub enum Operand<'a> {
    /// Register, variable, label or function, with an offset.
    Name(&'a str, u64),
    /// `!name`
    Not(&'a str),
    /// Integer literal, two's complement.
    Int(u64),
    /// f32 literal, bits.
    F32(u32),
    /// f64 literal.
    F64(f64),
    /// `[name + offset]`
    Address(Option<&'a str>, u64),
    /// `{a, b}`
    Vector(Vec<Operand<'a>>),
    /// `(a, b)`
    List(Vec<Operand<'a>>),
    /// `a|b`
    Pair(&'a str, &'a str),
}

/// Reads a module.
pub fn parse(text: &str) -> Result<Ast<'_>, PtxError> {
    let mut parser = Parser { tokens: tokens(text)?, at: 0 };
    let mut ast = Ast::default();
    while parser.at < parser.tokens.len() {
        parser.directive(&mut ast)?;
    }
    Ok(ast)
}

struct Parser<'a> {
    tokens: Vec<(Token<'a>, usize)>,
    at: usize,
}

impl<'a> Parser<'a> {
    fn line(&self) -> usize {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |t| t.1)
    }

    fn peek(&self) -> Option<Token<'a>> {
        self.tokens.get(self.at).map(|t| t.0)
    }

    fn peek_after(&self) -> Option<Token<'a>> {
        self.tokens.get(self.at + 1).map(|t| t.0)
    }

    fn fail<T>(&self, expected: &str) -> Result<T, PtxError> {
        let found = match self.peek() {
            None => "the end of the text".to_owned(),
            Some(Token::Word(w)) => format!("`{w}`"),
            Some(Token::Mark(c)) => format!("`{c}`"),
            Some(_) => "a literal".to_owned(),
        };
        Err(PtxError::Syntax { line: self.line(), what: format!("expected {expected}, found {found}") })
    }

    fn take(&mut self, mark: char) -> bool {
        let found = self.peek() == Some(Token::Mark(mark));
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, mark: char) -> Result<(), PtxError> {
        if self.take(mark) { Ok(()) } else { self.fail(&format!("`{mark}`")) }
    }

    fn word(&mut self, what: &str) -> Result<&'a str, PtxError> {
        match self.peek() {
            Some(Token::Word(w)) => {
                self.at += 1;
                Ok(w)
            }
            _ => self.fail(what),
        }
    }

    fn take_word(&mut self, word: &str) -> bool {
        let found = self.peek() == Some(Token::Word(word));
        self.at += usize::from(found);
        found
    }

    fn int(&mut self, what: &str) -> Result<u64, PtxError> {
        match self.peek() {
            Some(Token::Int(v)) => {
                self.at += 1;
                Ok(v)
            }
            _ => self.fail(what),
        }
    }

    fn directive(&mut self, ast: &mut Ast<'a>) -> Result<(), PtxError> {
        while let Some(Token::Word(".visible" | ".extern" | ".weak" | ".common")) = self.peek() {
            self.at += 1;
        }
        match self.word("a directive")? {
            ".version" => self.at += 1,
            ".address_size" => {
                if self.int("an address size")? != 64 {
                    self.at -= 1;
                    return self.fail("an address size of 64");
                }
            }
            ".target" => {
                let name = self.word("a target")?;
                let digits: String = name.chars().filter(char::is_ascii_digit).collect();
                ast.target = digits.parse().unwrap_or(0);
                while self.take(',') {
                    self.word("a target option")?;
                }
            }
            ".section" => {
                self.word("a section's name")?;
                self.skip_braces()?;
            }
            ".pragma" | ".alias" => self.skip_statement(),
            ".entry" => self.function(true, ast)?,
            ".func" => self.function(false, ast)?,
            ".global" | ".const" => {
                let list = self.variables(VarSpace::Global)?;
                ast.variables.extend(list);
            }
            ".shared" => {
                let list = self.variables(VarSpace::Shared)?;
                ast.variables.extend(list);
            }
            _ => {
                self.at -= 1;
                return self.fail("a directive of a module");
            }
        }
        Ok(())
    }

    fn skip_statement(&mut self) {
        while self.at < self.tokens.len() && !self.take(';') {
            self.at += 1;
        }
    }

    fn skip_braces(&mut self) -> Result<(), PtxError> {
        self.expect('{')?;
        let mut depth = 1;
        while depth > 0 {
            match self.peek() {
                Some(Token::Mark('{')) => depth += 1,
                Some(Token::Mark('}')) => depth -= 1,
                None => return self.fail("`}`"),
                _ => {}
            }
            self.at += 1;
        }
        Ok(())
    }

    /// What follows a state space: `.align 4 .b8 name[32] = {...};`, also several names.
    fn variables(&mut self, space: VarSpace) -> Result<Vec<Variable<'a>>, PtxError> {
        let mut out = vec![self.variable(space, None)?];
        let (ty, align) = out[0].1;
        while self.take(',') {
            out.push(self.variable(space, Some((ty, align)))?);
        }
        self.expect(';')?;
        Ok(out.into_iter().map(|v| v.0).collect())
    }

    /// A variable, with the type of one element and its alignment.
    fn variable(&mut self, space: VarSpace, same: Option<(Ty, u64)>) -> Result<(Variable<'a>, (Ty, u64)), PtxError> {
        let (ty, align) = match same {
            Some(known) => known,
            None => self.element()?,
        };
        let name = self.word("a name")?;
        let mut count = 1u64;
        let mut array = false;
        while self.take('[') {
            array = true;
            let length = if self.peek() == Some(Token::Mark(']')) { 0 } else { self.int("a length")? };
            self.expect(']')?;
            count = count.saturating_mul(length);
        }
        let mut bytes = count.saturating_mul(ty.bytes() as u64);
        if bytes > MAX_VARIABLE {
            return self.fail("a variable of at most 256 MiB");
        }
        let (mut init, mut addresses) = (Vec::new(), Vec::new());
        if self.take('=') {
            self.initialiser(ty, &mut init, &mut addresses)?;
            if array && bytes == 0 {
                bytes = init.len() as u64;
            }
            if init.len() as u64 > bytes {
                return self.fail("no more values than the variable holds");
            }
        }
        Ok((Variable { name, space, align, bytes, init, addresses }, (ty, align)))
    }

    /// `.align N`, `.ptr ...` and the type, in any order that PTX has.
    fn element(&mut self) -> Result<(Ty, u64), PtxError> {
        let (mut align, mut ty) = (None, None);
        while let Some(Token::Word(word)) = self.peek() {
            match word {
                ".align" => {
                    self.at += 1;
                    let n = self.int("an alignment")?;
                    if !n.is_power_of_two() || n > 1 << 16 {
                        return self.fail("an alignment that is a power of two");
                    }
                    // That of `.ptr`, which comes after the type, is about what the pointer points at.
                    if ty.is_none() {
                        align = Some(n);
                    }
                }
                ".ptr" | ".global" | ".const" | ".shared" | ".local" | ".managed" | ".attribute" => self.at += 1,
                ".v2" | ".v4" => return self.fail("no vector variable"),
                _ => match word.strip_prefix('.').and_then(Ty::parse) {
                    Some(found) if found != Ty::Pred => {
                        self.at += 1;
                        ty = Some(found);
                    }
                    _ => break,
                },
            }
        }
        match ty {
            Some(ty) => Ok((ty, align.unwrap_or(ty.bytes() as u64))),
            None => self.fail("a type"),
        }
    }

    fn initialiser(
        &mut self,
        ty: Ty,
        out: &mut Vec<u8>,
        addresses: &mut Vec<(usize, &'a str, u64)>,
    ) -> Result<(), PtxError> {
        if self.take('{') {
            let mut depth = 1;
            while depth > 0 {
                if self.take('{') {
                    depth += 1;
                } else if self.take('}') {
                    depth -= 1;
                } else if !self.take(',') {
                    self.value(ty, out, addresses)?;
                }
            }
            return Ok(());
        }
        self.value(ty, out, addresses)
    }

    fn value(&mut self, ty: Ty, out: &mut Vec<u8>, addresses: &mut Vec<(usize, &'a str, u64)>) -> Result<(), PtxError> {
        let negative = self.take('-');
        let bits = match self.peek() {
            Some(Token::Int(v)) => v,
            Some(Token::F32(v)) if ty == Ty::F64 => f64::from(f32::from_bits(v)).to_bits(),
            Some(Token::F32(v)) => u64::from(v),
            Some(Token::F64(v)) if ty == Ty::F32 => u64::from((v as f32).to_bits()),
            Some(Token::F64(v)) => v.to_bits(),
            Some(Token::Word(name)) if ty.bytes() == 8 => {
                self.at += 1;
                let name = if name == "generic" && self.take('(') {
                    let inner = self.word("a variable")?;
                    self.expect(')')?;
                    inner
                } else {
                    name
                };
                let addend = if self.take('+') { self.int("an offset")? } else { 0 };
                addresses.push((out.len(), name, addend));
                out.extend_from_slice(&[0; 8]);
                return Ok(());
            }
            _ => return self.fail("a value"),
        };
        self.at += 1;
        let bits = match (negative, ty) {
            (false, _) => bits,
            (true, Ty::F32) => bits ^ (1 << 31),
            (true, Ty::F64) => bits ^ (1 << 63),
            (true, _) => bits.wrapping_neg(),
        };
        out.extend_from_slice(&bits.to_le_bytes()[..ty.bytes()]);
        Ok(())
    }

    fn parameters(&mut self) -> Result<Vec<Variable<'a>>, PtxError> {
        let mut out = Vec::new();
        if !self.take('(') {
            return Ok(out);
        }
        while !self.take(')') {
            if !out.is_empty() {
                self.expect(',')?;
            }
            if !self.take_word(".param") {
                return self.fail("`.param`");
            }
            out.push(self.variable(VarSpace::Param, None)?.0);
        }
        Ok(out)
    }

    fn function(&mut self, entry: bool, ast: &mut Ast<'a>) -> Result<(), PtxError> {
        let returns = if entry { Vec::new() } else { self.parameters()? };
        let line = self.line();
        let name = self.word("a function's name")?;
        let params = self.parameters()?;
        let mut function =
            Function { name, entry, returns, params, max_threads: None, required: None, body: Vec::new(), line };
        loop {
            if self.take(';') {
                return Ok(());
            }
            if self.take('{') {
                break;
            }
            match self.word("`{`")? {
                which @ (".maxntid" | ".reqntid") => {
                    let mut dims = [1u32; 3];
                    for (i, dim) in dims.iter_mut().enumerate() {
                        if i == 0 || self.take(',') {
                            *dim = u32::try_from(self.int("a number of threads")?).unwrap_or(u32::MAX);
                        }
                    }
                    function.max_threads = Some(dims.iter().map(|d| u64::from(*d)).fold(1, u64::saturating_mul));
                    if which == ".reqntid" {
                        function.required = Some(dims);
                    }
                }
                ".minnctapersm" | ".maxnctapersm" | ".maxnreg" => {
                    self.int("a number")?;
                }
                ".noreturn" => {}
                ".pragma" => self.skip_statement(),
                _ => {
                    self.at -= 1;
                    return self.fail("`{` or a directive of a function");
                }
            }
        }
        let mut depth = 1;
        while depth > 0 {
            let line = self.line();
            let kind = self.statement()?;
            match kind {
                Some(Kind::Open) => depth += 1,
                Some(Kind::Close) => depth -= 1,
                _ => {}
            }
            if depth > 0 {
                function.body.extend(kind.map(|kind| Statement { line, kind }));
            }
        }
        ast.functions.push(function);
        Ok(())
    }

    fn statement(&mut self) -> Result<Option<Kind<'a>>, PtxError> {
        if self.take('{') {
            return Ok(Some(Kind::Open));
        }
        if self.take('}') {
            return Ok(Some(Kind::Close));
        }
        if self.take(';') {
            return Ok(None);
        }
        if self.take('@') {
            let negated = self.take('!');
            let guard = Some((self.word("a predicate")?, negated));
            return self.instruction(guard).map(Some);
        }
        match self.peek() {
            Some(Token::Word(".reg")) => {
                self.at += 1;
                self.registers().map(Some)
            }
            Some(Token::Word(word @ (".local" | ".shared" | ".param"))) => {
                self.at += 1;
                let space = match word {
                    ".local" => VarSpace::Local,
                    ".shared" => VarSpace::Shared,
                    _ => VarSpace::Param,
                };
                let (variable, _) = self.variable(space, None)?;
                self.expect(';')?;
                Ok(Some(Kind::Variable(variable)))
            }
            Some(Token::Word(".pragma")) => {
                self.skip_statement();
                Ok(None)
            }
            Some(Token::Word(name)) if self.peek_after() == Some(Token::Mark(':')) => {
                self.at += 2;
                if self.take_word(".branchtargets") {
                    let mut list = vec![self.word("a label")?];
                    while self.take(',') {
                        list.push(self.word("a label")?);
                    }
                    self.expect(';')?;
                    return Ok(Some(Kind::Targets(name, list)));
                }
                Ok(Some(Kind::Label(name)))
            }
            Some(Token::Word(word)) if !word.starts_with('.') => self.instruction(None).map(Some),
            _ => self.fail("a statement"),
        }
    }

    fn registers(&mut self) -> Result<Kind<'a>, PtxError> {
        let word = self.word("a register type")?;
        let Some(ty) = word.strip_prefix('.').and_then(Ty::parse) else {
            self.at -= 1;
            return self.fail("a register type");
        };
        let mut names = Vec::new();
        loop {
            let name = self.word("a register's name")?;
            let mut count = None;
            if self.take('<') {
                let n = self.int("a number of registers")?;
                if n > MAX_REGISTERS {
                    return self.fail("at most 2^16 registers");
                }
                count = Some(n);
                self.expect('>')?;
            }
            names.push((name, count));
            if !self.take(',') {
                break;
            }
        }
        self.expect(';')?;
        Ok(Kind::Registers(ty, names))
    }

    fn instruction(&mut self, guard: Option<(&'a str, bool)>) -> Result<Kind<'a>, PtxError> {
        let opcode = self.word("an instruction")?;
        let mut operands = Vec::new();
        while !self.take(';') {
            if !operands.is_empty() {
                self.expect(',')?;
            }
            operands.push(self.operand(0)?);
        }
        Ok(Kind::Instruction(Instruction { guard, opcode, operands }))
    }

    fn operand(&mut self, depth: usize) -> Result<Operand<'a>, PtxError> {
        if depth > 2 {
            return self.fail("operands nested less deep");
        }
        if self.take('{') {
            return Ok(Operand::Vector(self.operands('}', depth)?));
        }
        if self.take('(') {
            return Ok(Operand::List(self.operands(')', depth)?));
        }
        if self.take('[') {
            let base = match self.peek() {
                Some(Token::Word(w)) => {
                    self.at += 1;
                    Some(w)
                }
                _ => None,
            };
            let offset = if base.is_none() || matches!(self.peek(), Some(Token::Mark('+' | '-'))) {
                self.take('+');
                self.signed()?
            } else {
                0
            };
            self.expect(']')?;
            return Ok(Operand::Address(base, offset));
        }
        if self.take('!') {
            return Ok(Operand::Not(self.word("a predicate")?));
        }
        if let Some(Token::Word(name)) = self.peek() {
            self.at += 1;
            if self.take('|') {
                return Ok(Operand::Pair(name, self.word("a predicate")?));
            }
            if self.take('+') {
                return Ok(Operand::Name(name, self.signed()?));
            }
            return Ok(Operand::Name(name, 0));
        }
        let negative = self.take('-');
        let operand = match self.peek() {
            Some(Token::Int(v)) => Operand::Int(if negative { v.wrapping_neg() } else { v }),
            Some(Token::F32(v)) => Operand::F32(if negative { v ^ (1 << 31) } else { v }),
            Some(Token::F64(v)) => Operand::F64(if negative { -v } else { v }),
            _ => return self.fail("an operand"),
        };
        self.at += 1;
        Ok(operand)
    }

    fn operands(&mut self, end: char, depth: usize) -> Result<Vec<Operand<'a>>, PtxError> {
        let mut list = Vec::new();
        while !self.take(end) {
            if !list.is_empty() {
                self.expect(',')?;
            }
            list.push(self.operand(depth + 1)?);
        }
        Ok(list)
    }

    fn signed(&mut self) -> Result<u64, PtxError> {
        let negative = self.take('-');
        let v = self.int("an offset")?;
        Ok(if negative { v.wrapping_neg() } else { v })
    }
}
