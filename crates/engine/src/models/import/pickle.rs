//! A small pickle machine: it builds plain values and descriptions of tensors, and runs nothing.
//!
//! A pickle is a program for a stack machine that may name any function and call it. Here a
//! name outside the closed list of [`super::torch_globals`] is a refusal, and a "call" of one
//! inside it only notes what was asked for. Objects live in one list and refer to each other by
//! index: nothing recurses, neither loops nor deep nesting can hurt.

use std::borrow::Cow;
use std::collections::HashMap;

use anyhow::Result;

use super::cursor::ByteReader;
use super::torch_globals;
use super::value::{Object, Pickle, Value};
use super::weights::{damaged, refused};

/// Most instructions of one pickle. They bound its objects, its stack and its memory (some 100
/// bytes each); the state of a large network takes some 100,000.
const MAX_STEPS: usize = 1_000_000;
/// Most open marks: nesting of lists, tuples and dictionaries being written.
const MAX_MARKS: usize = 1000;

/// Reads the pickle at the start of `bytes`; what follows it is left alone.
pub(super) fn read(bytes: &[u8]) -> Result<Pickle<'_>> {
    let mut machine = PickleMachine {
        cursor: ByteReader { bytes, at: 0 },
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        copied: 0,
        pickle: Pickle { objects: Vec::new(), root: Value::None, length: 0 },
    };
    for _ in 0..MAX_STEPS {
        if machine.step()? {
            machine.pickle.root = machine.pop()?;
            machine.pickle.length = machine.cursor.at;
            return Ok(machine.pickle);
        }
    }
    Err(refused(format!("its pickle has more than {MAX_STEPS} instructions")))
}

struct PickleMachine<'a> {
    cursor: ByteReader<'a>,
    stack: Vec<Value>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u64, Value>,
    /// Entries copied by calls, which may copy the same list again and again.
    copied: usize,
    pickle: Pickle<'a>,
}

impl<'a> PickleMachine<'a> {
    /// One instruction; true at the end.
    fn step(&mut self) -> Result<bool> {
        match self.cursor.number(1)? as u8 {
            b'.' => return Ok(true),
            0x80 => {
                let protocol = self.cursor.number(1)?;
                if protocol > 5 {
                    return Err(refused(format!("its pickle is of protocol {protocol}; 0 to 5 are known")));
                }
            }
            0x95 => {
                self.cursor.number(8)?; // a frame's length: the bytes are all here
            }
            b'N' => self.stack.push(Value::None),
            0x88 => self.stack.push(Value::Bool(true)),
            0x89 => self.stack.push(Value::Bool(false)),
            b'K' => self.int(1)?,
            b'M' => self.int(2)?,
            b'J' => {
                let number = self.cursor.number(4)? as u32 as i32;
                self.stack.push(Value::Int(number.into()));
            }
            b'I' | b'L' => self.int_line()?,
            0x8a => self.long(1)?,
            0x8b => self.long(4)?,
            b'G' => {
                let bits = self.cursor.number(8)?.swap_bytes(); // the one big-endian number
                self.stack.push(Value::Float(f64::from_bits(bits)));
            }
            b'F' => {
                let text = self.cursor.line()?;
                let number = text.parse().map_err(|_| damaged("a number in its pickle"))?;
                self.stack.push(Value::Float(number));
            }
            b'X' => self.text(4)?,
            0x8c => self.text(1)?,
            0x8d => self.text(8)?,
            b'T' => self.text(4)?,
            b'U' => self.text(1)?,
            b'S' | b'V' => {
                let text = self.cursor.line()?.trim_matches(['\'', '"']);
                self.push(Object::Text(text.into()));
            }
            b'B' => self.raw(4)?,
            b'C' => self.raw(1)?,
            0x8e | 0x96 => self.raw(8)?,
            b']' | 0x8f => self.push(Object::List(Vec::new())),
            b')' => self.push(Object::Tuple(Vec::new())),
            b'}' => self.push(Object::Dict(Vec::new())),
            b'(' => {
                if self.marks.len() >= MAX_MARKS {
                    return Err(refused(format!("its pickle is nested more than {MAX_MARKS} deep")));
                }
                self.marks.push(self.stack.len());
            }
            b'l' | 0x91 => {
                let elements = self.since_mark()?;
                self.push(Object::List(elements));
            }
            b't' => {
                let elements = self.since_mark()?;
                self.push(Object::Tuple(elements));
            }
            count @ 0x85..=0x87 => {
                let count = usize::from(count - 0x84);
                let mut elements = (0..count).map(|_| self.pop()).collect::<Result<Vec<_>>>()?;
                elements.reverse();
                self.push(Object::Tuple(elements));
            }
            b'd' => {
                let entries = pairs(self.since_mark()?)?;
                self.push(Object::Dict(entries));
            }
            b'a' => {
                let element = self.pop()?;
                self.extend(vec![element])?;
            }
            b'e' | 0x90 => {
                let elements = self.since_mark()?;
                self.extend(elements)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set(vec![(key, value)])?;
            }
            b'u' => {
                let entries = pairs(self.since_mark()?)?;
                self.set(entries)?;
            }
            b'0' => {
                // After a mark it removes the mark.
                if self.marks.last() == Some(&self.stack.len()) {
                    self.marks.pop();
                } else {
                    self.pop()?;
                }
            }
            b'1' => {
                self.since_mark()?;
            }
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
            }
            b'p' => {
                let place = self.cursor.line()?.parse().map_err(|_| damaged("a number in its pickle"))?;
                self.remember(place)?;
            }
            b'q' => {
                let place = self.cursor.number(1)?;
                self.remember(place)?;
            }
            b'r' => {
                let place = self.cursor.number(4)?;
                self.remember(place)?;
            }
            0x94 => self.remember(self.memo.len() as u64)?,
            b'g' => {
                let place = self.cursor.line()?.parse().map_err(|_| damaged("a number in its pickle"))?;
                self.recall(place)?;
            }
            b'h' => {
                let place = self.cursor.number(1)?;
                self.recall(place)?;
            }
            b'j' => {
                let place = self.cursor.number(4)?;
                self.recall(place)?;
            }
            b'c' => {
                let (module, name) = (self.cursor.line()?, self.cursor.line()?);
                self.global(module, name)?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Some(name), Some(module)) = (self.pickle.text(name), self.pickle.text(module)) else {
                    return Err(damaged("a name in its pickle"));
                };
                let (module, name) = (module.to_owned(), name.to_owned());
                self.global(&module, &name)?;
            }
            // Calls: of a function with a tuple, and of a class with a tuple.
            b'R' | 0x81 => {
                let (arguments, function) = (self.pop()?, self.pop()?);
                self.call(function, arguments)?;
            }
            0x92 => {
                let (_, arguments, function) = (self.pop()?, self.pop()?, self.pop()?);
                self.call(function, arguments)?;
            }
            b'i' => {
                let (module, name) = (self.cursor.line()?, self.cursor.line()?);
                let arguments = self.since_mark()?;
                self.global(module, name)?;
                self.push(Object::Tuple(arguments));
                let (arguments, function) = (self.pop()?, self.pop()?);
                self.call(function, arguments)?;
            }
            b'o' => {
                let mut arguments = self.since_mark()?;
                if arguments.is_empty() {
                    return Err(damaged("a call in its pickle"));
                }
                let function = arguments.remove(0);
                self.push(Object::Tuple(arguments));
                let arguments = self.pop()?;
                self.call(function, arguments)?;
            }
            b'b' => {
                // Attributes of an object: no kind on the list has any that matter.
                self.pop()?;
                self.top()?;
            }
            b'Q' => {
                let id = self.pop()?;
                let storage = torch_globals::storage(&self.pickle, id)?;
                self.push(Object::Storage(storage));
            }
            b'P' => return Err(refused("its pickle names values outside it in a way PyTorch never did")),
            0x82..=0x84 => return Err(refused("its pickle calls registered extensions: not weights but code")),
            0x97 | 0x98 => return Err(refused("its pickle keeps buffers outside the file")),
            other => return Err(damaged(&format!("its pickle holds the unknown instruction {other:#04x}"))),
        }
        Ok(false)
    }

    fn push(&mut self, object: Object<'a>) {
        self.stack.push(Value::At(self.pickle.objects.len()));
        self.pickle.objects.push(object);
    }

    fn top(&self) -> Result<Value> {
        let floor = self.marks.last().copied().unwrap_or(0);
        self.stack.get(floor..).and_then(<[Value]>::last).copied().ok_or_else(|| damaged("its pickle lacks a value"))
    }

    fn pop(&mut self) -> Result<Value> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn since_mark(&mut self) -> Result<Vec<Value>> {
        let mark = self.marks.pop().ok_or_else(|| damaged("its pickle lacks a mark"))?;
        Ok(self.stack.split_off(mark))
    }

    fn int(&mut self, bytes: u64) -> Result<()> {
        let number = self.cursor.number(bytes)?;
        self.stack.push(Value::Int(number as i64));
        Ok(())
    }

    fn int_line(&mut self) -> Result<()> {
        let value = match self.cursor.line()?.trim_end_matches('L') {
            "00" => Value::Bool(false),
            "01" => Value::Bool(true),
            text => Value::Int(text.parse().map_err(|_| damaged("a number in its pickle"))?),
        };
        self.stack.push(value);
        Ok(())
    }

    fn long(&mut self, bytes: u64) -> Result<()> {
        let length = self.cursor.number(bytes)?;
        let raw = self.cursor.take(length)?;
        if raw.len() > 8 {
            self.push(Object::Long(raw));
            return Ok(());
        }
        let fill = if raw.last().is_some_and(|b| b & 0x80 != 0) { 0xff } else { 0 };
        let mut wide = [fill; 8];
        wide[..raw.len()].copy_from_slice(raw);
        self.stack.push(Value::Int(i64::from_le_bytes(wide)));
        Ok(())
    }

    /// Text; bytes of Python 2 that are not UTF-8 are replaced, no name we look for has any.
    fn text(&mut self, bytes: u64) -> Result<()> {
        let length = self.cursor.number(bytes)?;
        let raw = self.cursor.take(length)?;
        self.push(Object::Text(match std::str::from_utf8(raw) {
            Ok(text) => Cow::Borrowed(text),
            Err(_) => Cow::Borrowed("\u{fffd}"),
        }));
        Ok(())
    }

    /// Bytes: nothing of a network's state is kept in them.
    fn raw(&mut self, bytes: u64) -> Result<()> {
        let length = self.cursor.number(bytes)?;
        self.cursor.take(length)?;
        self.push(Object::Ignored);
        Ok(())
    }

    fn extend(&mut self, elements: Vec<Value>) -> Result<()> {
        let Value::At(at) = self.top()? else { return Err(damaged("its pickle appends to no list")) };
        match &mut self.pickle.objects[at] {
            Object::List(list) => list.extend(elements),
            Object::Ignored => {}
            _ => return Err(damaged("its pickle appends to no list")),
        }
        Ok(())
    }

    fn set(&mut self, entries: Vec<(Value, Value)>) -> Result<()> {
        let Value::At(at) = self.top()? else { return Err(damaged("its pickle sets items of no dictionary")) };
        match &mut self.pickle.objects[at] {
            Object::Dict(dict) => dict.extend(entries),
            Object::Ignored => {}
            _ => return Err(damaged("its pickle sets items of no dictionary")),
        }
        Ok(())
    }

    fn remember(&mut self, place: u64) -> Result<()> {
        let top = self.top()?;
        self.memo.insert(place, top);
        Ok(())
    }

    fn recall(&mut self, place: u64) -> Result<()> {
        let value = self.memo.get(&place).ok_or_else(|| damaged("its pickle recalls what it never kept"))?;
        self.stack.push(*value);
        Ok(())
    }

    fn global(&mut self, module: &str, name: &str) -> Result<()> {
        let global = torch_globals::known(module, name)?;
        self.push(Object::Global(global));
        Ok(())
    }

    fn call(&mut self, function: Value, arguments: Value) -> Result<()> {
        let made = torch_globals::call(&self.pickle, function, arguments)?;
        match made {
            torch_globals::CallResult::Object(object) => {
                if let Object::Dict(entries) = &object {
                    self.copied += entries.len();
                }
                if self.copied > MAX_STEPS {
                    return Err(refused("its pickle copies too much"));
                }
                self.push(object);
            }
            torch_globals::CallResult::Value(value) => self.stack.push(value),
        }
        Ok(())
    }
}

fn pairs(flat: Vec<Value>) -> Result<Vec<(Value, Value)>> {
    let (pairs, []) = flat.as_chunks::<2>() else { return Err(damaged("its pickle has a key without a value")) };
    Ok(pairs.iter().map(|&[key, value]| (key, value)).collect())
}

#[cfg(test)]
#[path = "pickle_tests.rs"]
mod tests;
