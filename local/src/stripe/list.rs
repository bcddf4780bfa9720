//! Cursor lists, newest first, as every list of the API.

use serde_json::{Value, json};

use super::engine::{Tx, number, text};
use super::error::ApiError;
use super::form::Params;
use super::store::Kind;

/// Parameters every list knows.
pub(super) const PARAMS: &[&str] = &["limit", "starting_after", "ending_before"];

/// One page of the objects of a kind that pass `keep`, also filtered by `created` when the caller may send it.
pub(super) fn page(
    tx: &Tx<'_>,
    kind: Kind,
    url: &str,
    params: &Params,
    keep: impl Fn(&Value) -> bool,
) -> Result<Value, ApiError> {
    let created = CreatedFilter::from_params(params)?;
    let found = tx.store.rows(kind).rev().filter(|row| keep(row) && created.holds(number(row, "created")));
    cut(found, url, params)
}

/// One page of objects that are already in the order of the list.
pub(super) fn cut<'v>(objects: impl Iterator<Item = &'v Value>, url: &str, params: &Params) -> Result<Value, ApiError> {
    let limit = params.integer("limit")?.unwrap_or(10);
    if !(1..=100).contains(&limit) {
        return Err(ApiError::invalid("Invalid integer: limit must be between 1 and 100").param("limit"));
    }
    let limit = usize::try_from(limit).unwrap_or(100);
    let objects: Vec<&Value> = objects.collect();
    let position = |name: &str| -> Result<Option<usize>, ApiError> {
        let Some(id) = params.filled(name)? else { return Ok(None) };
        let found = objects.iter().position(|object| text(object, "id") == id);
        found.map(Some).ok_or_else(|| ApiError::no_such("object", id, name))
    };
    let (after, before) = (position("starting_after")?, position("ending_before")?);
    let (slice, has_more) = match (after, before) {
        (Some(_), Some(_)) => {
            return Err(ApiError::invalid("You cannot parameterize both starting_after and ending_before."));
        }
        (_, Some(end)) => {
            let start = end.saturating_sub(limit);
            (&objects[start..end], start > 0)
        }
        (after, None) => {
            let start = after.map_or(0, |position| position + 1);
            let end = objects.len().min(start + limit);
            (&objects[start..end], end < objects.len())
        }
    };
    Ok(json!({ "object": "list", "data": slice, "has_more": has_more, "url": url }))
}

/// `created=…` or `created[gte]=…&created[lt]=…`, in seconds since 1970.
#[derive(Debug, Default)]
struct CreatedFilter {
    from: Option<i64>,
    to: Option<i64>,
}

impl CreatedFilter {
    fn from_params(params: &Params) -> Result<Self, ApiError> {
        if let Ok(Some(exact)) = params.integer("created") {
            return Ok(Self { from: Some(exact), to: Some(exact) });
        }
        let Some(range) = params.child("created")? else { return Ok(Self::default()) };
        range.only(&["gt", "gte", "lt", "lte"])?;
        let lower = [range.integer("gte")?, range.integer("gt")?.map(|at| at.saturating_add(1))];
        let upper = [range.integer("lte")?, range.integer("lt")?.map(|at| at.saturating_sub(1))];
        Ok(Self { from: lower.into_iter().flatten().max(), to: upper.into_iter().flatten().min() })
    }

    fn holds(&self, created: i64) -> bool {
        self.from.is_none_or(|from| created >= from) && self.to.is_none_or(|to| created <= to)
    }
}
