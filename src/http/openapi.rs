//! `/openapi.json`: what a listener offers, for programs. Each document is kept by hand beside the router that it
//! tells of, and held against it by the tests here.

use axum::http::HeaderName;
use axum::http::header::CONTENT_TYPE;

/// An OpenAPI 3.1 document, as a listener's answer.
pub type Document = ([(HeaderName, &'static str); 1], &'static str);

/// The answer with this text.
pub fn answer(text: &'static str) -> Document {
    ([(CONTENT_TYPE, "application/json")], text)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    /// A listener: its router's source, its document, and paths of the page, which is for people.
    const LISTENERS: [(&str, &str, &[&str]); 2] = [
        (
            include_str!("control/mod.rs"),
            include_str!("control/openapi.json"),
            &["/", "/app.js", "/style.css", "/icon.svg"],
        ),
        (include_str!("images/mod.rs"), include_str!("images/openapi.json"), &[]),
    ];

    /// `GET /path` of every `.route("/path", get(..).post(..))`.
    fn routed(source: &str) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for route in source.split(".route(\"").skip(1) {
            let (path, rest) = route.split_once('"').unwrap();
            let end = rest.find("\n").unwrap();
            for method in ["get", "post", "put", "delete", "patch"] {
                let called = |before: char| rest[..end].contains(&format!("{before}{method}("));
                if called(' ') || called('.') {
                    found.insert(format!("{} {path}", method.to_uppercase()));
                }
            }
        }
        found
    }

    #[test]
    fn every_route_is_told_of_and_nothing_else() {
        for (source, document, page) in LISTENERS {
            let document: Value = serde_json::from_str(document).unwrap();
            let mut told = BTreeSet::new();
            for (path, item) in document["paths"].as_object().unwrap() {
                let methods = item.as_object().unwrap().keys().filter(|key| *key != "parameters");
                told.extend(methods.map(|method| format!("{} {path}", method.to_uppercase())));
            }
            let routes: BTreeSet<String> = routed(source)
                .into_iter()
                .filter(|route| !page.iter().any(|path| *route == format!("GET {path}")))
                .collect();
            assert_eq!(told, routes);
            assert!(told.contains("GET /openapi.json") && told.len() > 8);
            assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
        }
    }

    #[test]
    fn routes_are_found() {
        let found = routed("r.route(\"/a/{b}\", get(x).post(y))\n.route(\"/c\", post(d::get))\n");
        assert_eq!(found.into_iter().collect::<Vec<_>>(), ["GET /a/{b}", "POST /a/{b}", "POST /c"]);
    }
}
