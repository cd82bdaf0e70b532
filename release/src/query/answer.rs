//! What Prometheus answers
//! (<https://prometheus.io/docs/prometheus/latest/querying/api/#instant-queries>).

use http::StatusCode;
use serde::Deserialize;
use serde_json::Value;

use super::NoValue;
use crate::model::Time;

/// How far its clock may be from the own one, in seconds.
const CLOCKS_APART: u64 = 30;
/// The most characters of what it says about an error.
const MAX_ERROR: usize = 200;

#[derive(Deserialize)]
struct Answer {
    status: String,
    #[serde(default)]
    error: String,
    data: Option<Data>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data {
    result_type: String,
    result: Value,
}

/// When it was evaluated, in seconds since 1970, and the number as a text.
type Sample = (f64, String);

/// The one number of a response that was received at `now`.
pub(super) fn read(status: StatusCode, body: &[u8], now: Time) -> Result<f64, NoValue> {
    let answer: Option<Answer> = serde_json::from_slice(body).ok();
    let Some(answer) = answer else {
        return Err(match status {
            StatusCode::OK => NoValue::Invalid,
            status => NoValue::Away(format!("returned status {}", status.as_u16())),
        });
    };
    if answer.status != "success" {
        let error = answer.error.chars().filter(|character| !character.is_control());
        return Err(NoValue::Refused(error.take(MAX_ERROR).collect()));
    }
    let Data { result_type, result } = answer.data.ok_or(NoValue::Invalid)?;
    let (at, text) = match result_type.as_str() {
        "scalar" => sample(result)?,
        "vector" => only(result)?,
        _ => return Err(NoValue::Kind(result_type.chars().take(20).collect())),
    };
    let apart = (at - now.0 as f64 / 1000.0).abs();
    // What is no number is far away, too.
    if apart.is_nan() || apart > CLOCKS_APART as f64 {
        return Err(NoValue::Apart(apart.clamp(0.0, u64::MAX as f64) as u64));
    }
    let number = text.parse().ok().filter(|number: &f64| number.is_finite());
    number.ok_or_else(|| NoValue::NotANumber(text.chars().take(20).collect()))
}

/// The sample of the only series.
fn only(result: Value) -> Result<Sample, NoValue> {
    let Value::Array(mut series) = result else { return Err(NoValue::Invalid) };
    match series.len() {
        0 => Err(NoValue::Nothing),
        1 => {
            let value = series.pop().and_then(|mut one| Some(one.get_mut("value")?.take()));
            sample(value.ok_or(NoValue::Invalid)?)
        }
        several => Err(NoValue::Several(several)),
    }
}

fn sample(value: Value) -> Result<Sample, NoValue> {
    serde_json::from_value(value).map_err(|_| NoValue::Invalid)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: Time = Time(1_800_000_000_000);

    fn vector(series: &[Value]) -> Value {
        json!({ "status": "success", "data": { "resultType": "vector", "result": series } })
    }

    fn series(at: f64, value: &str) -> Value {
        json!({ "metric": {}, "value": [at, value] })
    }

    fn read_at(at: f64, value: &str) -> Result<f64, NoValue> {
        read(StatusCode::OK, vector(&[series(at, value)]).to_string().as_bytes(), NOW)
    }

    fn sentence(body: &Value) -> String {
        read(StatusCode::OK, body.to_string().as_bytes(), NOW).unwrap_err().to_string()
    }

    #[test]
    fn one_number_of_now_is_a_value() {
        assert_eq!(read_at(1_800_000_000.2, "0.25"), Ok(0.25));
        let scalar = json!({ "status": "success", "data": {
            "resultType": "scalar", "result": [1_800_000_000, "7"] } });
        assert_eq!(read(StatusCode::OK, scalar.to_string().as_bytes(), NOW), Ok(7.0));
    }

    #[test]
    fn nan_and_infinity_are_no_numbers() {
        for text in ["NaN", "+Inf", "-Inf", "", "seven"] {
            assert_eq!(read_at(1_800_000_000.0, text), Err(NoValue::NotANumber(text.to_owned())));
        }
        let nan = read_at(1_800_000_000.0, "NaN").unwrap_err().to_string();
        assert!(nan.starts_with("the query returned NaN, which is no number"), "{nan}");
    }

    #[test]
    fn several_series_or_none_are_no_value() {
        let one = || series(1_800_000_000.0, "1");
        assert_eq!(
            sentence(&vector(&[one(), one(), one()])),
            "the query returned 3 series, and one is needed: write an aggregation such as `sum(…)`"
        );
        assert_eq!(
            sentence(&vector(&[])),
            "the query returned nothing: there are no samples of the last minutes"
        );
        let matrix =
            json!({ "status": "success", "data": { "resultType": "matrix", "result": [] } });
        assert_eq!(sentence(&matrix), "the query returned a matrix, and not one number");
    }

    #[test]
    fn one_that_is_an_hour_behind_says_nothing() {
        assert_eq!(read_at(1_800_000_000.0 - 3_600.0, "0"), Err(NoValue::Apart(3_600)));
        assert_eq!(read_at(1_800_000_000.0 + 31.0, "0"), Err(NoValue::Apart(31)), "or ahead");
        assert_eq!(read_at(f64::MAX, "0"), Err(NoValue::Apart(u64::MAX)));
    }

    #[test]
    fn what_is_no_result_is_no_value() {
        let refused = json!({ "status": "error", "errorType": "bad_data",
            "error": format!("parse error\u{1b}[2J{}", "x".repeat(900)) });
        let why = sentence(&refused);
        assert!(why.starts_with("Prometheus refused the query: parse error[2Jxxx"), "{why}");
        assert!(why.len() < 300 && !why.contains('\u{1b}'));
        let read = |status: u16, body: &str| {
            let status = StatusCode::from_u16(status).unwrap();
            read(status, body.as_bytes(), NOW).unwrap_err().to_string()
        };
        assert_eq!(read(502, "<html>"), "Prometheus returned status 502");
        for body in ["<html>", "{}", r#"{"status":"success"}"#, "[]"] {
            assert_eq!(read(200, body), "Prometheus sent no result of a query", "{body}");
        }
        let odd = vector(&[json!({ "metric": {}, "value": ["x"] })]);
        assert_eq!(sentence(&odd), "Prometheus sent no result of a query");
    }
}
