//! A request's query, read field by field.

use axum::extract::Query;
use axum::http::Uri;
use serde_json::Value;

use crate::server::kit::error::Problem;

/// The fields of a query; of a repeated one the last counts.
pub struct QueryFields(Vec<(String, String)>);

impl QueryFields {
    /// What stands behind the question mark; nothing where that is malformed.
    pub fn of(uri: &Uri) -> QueryFields {
        QueryFields(Query::try_from_uri(uri).map(|Query(fields)| fields).unwrap_or_default())
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }

    /// A whole number; one that is ill-typed is added to `problems`.
    pub fn whole(&self, name: &'static str, default: i64, problems: &mut Vec<Problem>) -> i64 {
        let Some(text) = self.text(name) else { return default };
        text.trim().parse().unwrap_or_else(|_| {
            problems.push(Problem {
                kind: "int_parsing",
                place: ["query", name],
                message: "Input should be a valid integer, unable to parse string as an integer",
                input: Value::from(text),
            });
            default
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_what_is_none() {
        let asked = QueryFields::of(&Uri::from_static("/upscale?upscale=4&process_size=abc&upscale=2&x=%2Fy"));
        let mut problems = Vec::new();
        assert_eq!((asked.whole("upscale", 7, &mut problems), problems.len()), (2, 0));
        assert_eq!((asked.whole("absent", 7, &mut problems), problems.len()), (7, 0));
        asked.whole("process_size", 7, &mut problems);
        assert_eq!((problems[0].place, &problems[0].input), (["query", "process_size"], &Value::from("abc")));
        assert_eq!(asked.text("x"), Some("/y"));
        assert_eq!(QueryFields::of(&Uri::from_static("/upscale")).text("x"), None);
    }
}
