//! Bodies of JSON, read field by field: what is wrong is told of all fields at once.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use serde_json::{Map, Value};

use crate::server::kit::error::{ApiError, Problem};

/// A body, and what is wrong with it so far.
pub(super) struct JsonBody {
    fields: Map<String, Value>,
    problems: Vec<Problem>,
}

impl JsonBody {
    /// # Errors
    /// 422 for what is no JSON object, 413 for too much of it.
    pub(super) fn of(body: Result<Json<Value>, JsonRejection>) -> Result<JsonBody, ApiError> {
        let wrong =
            |kind, message, input| Err(ApiError::fields(&[Problem { kind, place: ["body", "json"], message, input }]));
        match body {
            Ok(Json(Value::Object(fields))) => Ok(JsonBody { fields, problems: Vec::new() }),
            Ok(Json(other)) => wrong("model_attributes_type", "Input should be a valid dictionary", other),
            Err(JsonRejection::BytesRejection(rejection)) => {
                Err(ApiError::new(rejection.status(), rejection.body_text()))
            }
            Err(_) => wrong("json_invalid", "JSON decode error", Value::Null),
        }
    }

    /// A field's value as `read` has it. Absent, it is `default`, or missed where there is none.
    pub(super) fn take<T: Default>(
        &mut self,
        name: &'static str,
        default: Option<T>,
        (kind, message): (&'static str, &'static str),
        read: impl Fn(&Value) -> Option<T>,
    ) -> T {
        let place = ["body", name];
        match (self.fields.get(name), default) {
            (Some(value), _) => match read(value) {
                Some(read) => return read,
                None => self.problems.push(Problem { kind, place, message, input: value.clone() }),
            },
            (None, Some(default)) => return default,
            (None, None) => {
                let input = Value::Object(self.fields.clone());
                self.problems.push(Problem { kind: "missing", place, message: "Field required", input });
            }
        }
        T::default()
    }

    /// Whether a field is there, whatever its value.
    pub(super) fn has(&self, name: &str) -> bool {
        self.fields.contains_key(name)
    }

    pub(super) fn text(&mut self, name: &'static str, default: Option<&str>) -> String {
        let wrong = ("string_type", "Input should be a valid string");
        self.take(name, default.map(str::to_owned), wrong, |value| value.as_str().map(str::to_owned))
    }

    /// A whole number; as text too, as other servers of this contract take it.
    pub(super) fn whole(&mut self, name: &'static str, default: Option<i64>) -> i64 {
        let wrong = ("int_type", "Input should be a valid integer");
        self.take(name, default, wrong, |value| match value {
            Value::String(text) => text.trim().parse().ok(),
            Value::Number(number) => number
                .as_i64()
                .or_else(|| number.as_f64().filter(|n| n.fract() == 0.0 && n.abs() < 1e15).map(|n| n as i64)),
            _ => None,
        })
    }

    /// A list of texts.
    pub(super) fn texts(&mut self, name: &'static str, default: Option<Vec<String>>) -> Vec<String> {
        let wrong = ("list_type", "Input should be a valid list of strings");
        self.take(name, default, wrong, |value| {
            value.as_array()?.iter().map(|text| text.as_str().map(str::to_owned)).collect()
        })
    }

    /// Notes that a field's value cannot be.
    pub(super) fn complain(&mut self, name: &'static str, kind: &'static str, message: &'static str) {
        if self.problems.iter().all(|problem| problem.place[1] != name) {
            let input = self.fields.get(name).cloned().unwrap_or_default();
            self.problems.push(Problem { kind, place: ["body", name], message, input });
        }
    }

    /// # Errors
    /// 422 with all that was wrong.
    pub(super) fn end(self) -> Result<(), ApiError> {
        if self.problems.is_empty() { Ok(()) } else { Err(ApiError::fields(&self.problems)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_and_what_is_wrong_with_them() {
        let of = |value: Value| JsonBody::of(Ok(Json(value)));
        let mut body = of(json!({"a": "x", "n": 3, "s": "4", "f": 5.0, "l": ["p"]})).unwrap();
        assert_eq!((body.text("a", None), body.text("b", Some("y"))), ("x".into(), "y".into()));
        assert_eq!([body.whole("n", None), body.whole("s", None), body.whole("f", None)], [3, 4, 5]);
        assert_eq!((body.whole("m", Some(7)), body.texts("l", None)), (7, vec!["p".to_string()]));
        assert!(body.end().is_ok());
        let mut body = of(json!({"a": 1, "n": "x", "l": "p", "m": null})).unwrap();
        body.text("a", None);
        body.whole("n", None);
        body.texts("l", None);
        body.text("none", None);
        body.whole("m", Some(1));
        assert_eq!(body.problems.len(), 5);
        assert_eq!(body.end().unwrap_err().status().as_u16(), 422);
        assert_eq!(of(json!([1])).err().unwrap().status().as_u16(), 422);
    }
}
