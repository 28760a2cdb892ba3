//! OpenAPI 3.1 of one tenant's functions: what is served, said so that tools can call it.

use serde_json::{Map, Value, json};

use super::problem::Code;
use crate::{
    event::property_at,
    id::TenantName,
    pipeline::{Function, Tenant},
};

/// The document; `server` is where callers reach the gateway.
pub fn document(tenant: &Tenant, title: &str, server: &str) -> Value {
    let mut functions: Vec<_> = tenant.functions().collect();
    functions.sort_by(|a, b| a.id.cmp(&b.id));
    let (mut paths, mut schemas) = (Map::new(), Map::new());
    schemas.insert("Problem".into(), problem_schema());
    for function in functions {
        let of_function = [
            function.events.schema_at(&base(function, EVENT)).map(|schema| (EVENT, schema)),
            function.events.query_schema_at(&base(function, QUERY)).map(|schema| (QUERY, schema)),
            function.replies.response_schema_at(&base(function, RESPONSE)).map(|schema| (RESPONSE, schema)),
        ];
        let named = of_function.into_iter().flatten().map(|(what, schema)| (name(function, what), schema));
        schemas.extend(named);
        paths.insert(format!("/{}", function.id), path_item(&tenant.name, function, false));
        if function.events.takes_rest() {
            paths.insert(format!("/{}/{{rest}}", function.id), path_item(&tenant.name, function, true));
        }
    }
    json!({
        "openapi": "3.1.0",
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "info": { "title": title, "version": &*tenant.revision },
        "servers": [{ "url": server }],
        "security": [{ "bearer": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": { "type": "http", "scheme": "bearer", "bearerFormat": "JWT" }
            },
            "schemas": schemas,
        },
    })
}

/// The name of a function's schema among the document's. Functions of a tenant differ, and no name has a dot.
fn name(function: &Function, what: &str) -> String {
    format!("{}.{what}", function.id.function)
}

/// Where it stands: all references are told from the document's root (OpenAPI 3.1.0 §4.6).
fn base(function: &Function, what: &str) -> String {
    format!("#/components/schemas/{}", name(function, what))
}

fn reference(to: impl Into<String>) -> Value {
    json!({ "$ref": to.into() })
}

fn path_item(tenant: &TenantName, function: &Function, with_rest: bool) -> Value {
    let mut item = Map::new();
    for method in function.events.methods() {
        let mut operation = Map::new();
        let id = format!(
            "{}_{}{}",
            method.as_str().to_lowercase(),
            function.id.function,
            if with_rest { "_rest" } else { "" }
        );
        operation.insert("operationId".into(), id.into());
        operation.insert("tags".into(), json!([tenant]));
        if let Some(summary) = &function.manifest.summary {
            operation.insert("summary".into(), summary.as_str().into());
        }
        let mut parameters = query_parameters(function);
        if with_rest {
            parameters.push(
                json!({ "name": "rest", "in": "path", "required": true, "schema": { "type": "string" } }),
            );
        }
        if !parameters.is_empty() {
            operation.insert("parameters".into(), parameters.into());
        }
        let bodiless = [http::Method::GET, http::Method::HEAD, http::Method::DELETE].contains(method);
        let content = request_content(function);
        if !content.is_empty() && !bodiless {
            operation.insert("requestBody".into(), json!({ "required": true, "content": content }));
        }
        operation.insert("responses".into(), responses(function));
        item.insert(method.as_str().to_lowercase(), operation.into());
    }
    item.into()
}

/// A parameter for each property of the query's schema.
fn query_parameters(function: &Function) -> Vec<Value> {
    let Some(schema) = function.events.query_schema() else { return Vec::new() };
    let required: Vec<&str> = schema
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let properties = schema.get("properties").and_then(Value::as_object);
    properties
        .into_iter()
        .flat_map(Map::keys)
        .map(|name| {
            let at = property_at(&base(function, QUERY), name);
            json!({ "name": name, "in": "query", "required": required.contains(&name.as_str()), "schema": reference(at) })
        })
        .collect()
}

fn request_content(function: &Function) -> Map<String, Value> {
    let schema = |media_type: &str| match (media_type, function.events.schema()) {
        ("application/json" | "application/x-www-form-urlencoded", Some(_)) => {
            reference(base(function, EVENT))
        }
        (media_type, Some(_)) if media_type.ends_with("+json") => reference(base(function, EVENT)),
        _ => json!({}),
    };
    function.events.media_types().map(|name| (name.to_owned(), json!({ "schema": schema(name) }))).collect()
}

/// A reply of the function's, and each status that the gateway may answer instead, with its codes.
fn responses(function: &Function) -> Value {
    let mut responses = Map::new();
    let content = match function.replies.has_schema() {
        true => json!({ "application/json": { "schema": reference(base(function, RESPONSE)) } }),
        false => json!({ "*/*": {} }),
    };
    responses.insert("2XX".into(), json!({ "description": "The function's reply", "content": content }));
    for code in Code::ALL {
        let entry = responses.entry(code.status().as_u16().to_string()).or_insert_with(|| {
            json!({
                "description": "",
                "content": { "application/problem+json": { "schema": reference("#/components/schemas/Problem") } },
            })
        });
        let before = entry.get("description").and_then(Value::as_str).unwrap_or_default();
        let line = format!("`{}`: {}", code.as_str(), code.title());
        let description = if before.is_empty() { line } else { format!("{before}; {line}") };
        if let Some(entry) = entry.as_object_mut() {
            entry.insert("description".into(), description.into());
        }
    }
    responses.into()
}

fn problem_schema() -> Value {
    let codes: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
    json!({
        "type": "object",
        "required": ["type", "title", "status", "instance", "code"],
        "properties": {
            "type": { "type": "string", "format": "uri-reference" },
            "title": { "type": "string" },
            "status": { "type": "integer", "minimum": 400, "maximum": 599 },
            "instance": { "type": "string", "description": "The request id, also in `sandgate-request-id`" },
            "code": { "type": "string", "enum": codes },
            "errors": {
                "type": "array",
                "maxItems": 20,
                "items": {
                    "type": "object",
                    "required": ["pointer", "keyword"],
                    "properties": {
                        "pointer": { "type": "string" },
                        "keyword": { "type": "string" },
                        "limit": { "type": "string" },
                    },
                },
            },
        },
    })
}

const EVENT: &str = "event";
const QUERY: &str = "query";
const RESPONSE: &str = "response";
