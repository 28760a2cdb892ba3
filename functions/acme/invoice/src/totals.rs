//! From an invoice to its totals, exactly.
//!
//! Why `Decimal` never rounds behind our back: it holds any number of at most 28 digits exactly, and the bounds at the
//! end of this file keep every product and every sum below that. The one rounding that an accountant knows about is
//! [`rounded`].

use std::{borrow::Cow, collections::BTreeMap};

use rust_decimal::{Decimal, RoundingStrategy};
use serde::{Deserialize, Serialize};

use crate::currency::minor_units;

/// An invoice as the caller sends it. Numbers are texts, since a JSON number may have been a binary float on its way.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Invoice<'a> {
    #[serde(borrow, default)]
    number: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    issued: Option<Cow<'a, str>>,
    #[serde(borrow)]
    currency: Cow<'a, str>,
    #[serde(borrow)]
    lines: Vec<Line<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    #[serde(borrow)]
    description: Cow<'a, str>,
    #[serde(borrow)]
    quantity: Cow<'a, str>,
    #[serde(borrow)]
    unit_price: Cow<'a, str>,
    #[serde(borrow, default)]
    discount_percent: Option<Cow<'a, str>>,
    #[serde(borrow)]
    tax_rate: Cow<'a, str>,
}

/// What the invoice comes to. Amounts are texts with exactly the currency's decimal places.
#[derive(Debug, Serialize, PartialEq, Eq)]
pub struct Totals<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    number: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    issued: Option<Cow<'a, str>>,
    currency: Cow<'a, str>,
    lines: Vec<LineTotal<'a>>,
    net: String,
    taxes: Vec<Tax>,
    tax: String,
    gross: String,
}

#[derive(Debug, Serialize, PartialEq, Eq)]
struct LineTotal<'a> {
    description: Cow<'a, str>,
    tax_rate: String,
    net: String,
}

/// All that is taxed at one rate: the tax is taken once from the sum, as EN 16931 (BR-CO-17) has it, not line by line.
#[derive(Debug, Serialize, PartialEq, Eq)]
struct Tax {
    rate: String,
    net: String,
    tax: String,
}

/// One thing wrong with an invoice. It says where and why, never what was written there.
#[derive(Debug, Serialize, PartialEq, Eq)]
pub struct Fault {
    /// JSON pointer (RFC 6901) into the event.
    pub pointer: String,
    /// For people.
    pub message: &'static str,
}

impl<'a> Invoice<'a> {
    /// Works out the totals, or says all that is wrong (at most [`MAX_FAULTS`]).
    pub fn totals(self) -> Result<Totals<'a>, Vec<Fault>> {
        let mut faults = Vec::new();
        let places = minor_units(&self.currency);
        if places.is_none() {
            faults.push(Fault { pointer: "/currency".into(), message: "not a currency in use (ISO 4217)" });
        }
        if self.lines.is_empty() || self.lines.len() > MAX_LINES {
            faults.push(Fault { pointer: "/lines".into(), message: "an invoice has 1 to 200 lines" });
            return Err(faults);
        }
        let places = places.unwrap_or_default();
        let mut lines = Vec::with_capacity(self.lines.len());
        let mut by_rate = BTreeMap::<Decimal, Decimal>::new();
        let mut net = Decimal::ZERO;
        for (index, line) in self.lines.into_iter().enumerate() {
            let Some(amounts) = Amounts::read(&line, index, &mut faults) else { continue };
            let line_net = rounded(amounts.quantity * amounts.unit_price * amounts.factor, places);
            net += line_net;
            *by_rate.entry(amounts.tax_rate).or_default() += line_net;
            lines.push(LineTotal {
                description: line.description,
                tax_rate: amounts.tax_rate.to_string(),
                net: line_net.to_string(),
            });
        }
        if !faults.is_empty() {
            faults.truncate(MAX_FAULTS);
            return Err(faults);
        }
        let mut tax = Decimal::ZERO;
        let taxes = by_rate.into_iter().map(|(rate, net)| {
            let amount = rounded(net * rate * PERCENT, places);
            tax += amount;
            Tax { rate: rate.to_string(), net: rounded(net, places).to_string(), tax: amount.to_string() }
        });
        let taxes = taxes.collect();
        Ok(Totals {
            number: self.number,
            issued: self.issued,
            currency: self.currency,
            lines,
            net: rounded(net, places).to_string(),
            taxes,
            tax: rounded(tax, places).to_string(),
            gross: rounded(net + tax, places).to_string(),
        })
    }
}

/// The numbers of one line, within the bounds that keep the arithmetic exact.
struct Amounts {
    quantity: Decimal,
    unit_price: Decimal,
    /// What is left after the discount: 0 to 1.
    factor: Decimal,
    tax_rate: Decimal,
}

impl Amounts {
    fn read(line: &Line<'_>, index: usize, faults: &mut Vec<Fault>) -> Option<Self> {
        let mut note =
            |name, message| faults.push(Fault { pointer: format!("/lines/{index}/{name}"), message });
        let (quantity_digits, minus) = match line.quantity.strip_prefix('-') {
            Some(digits) => (digits, true),
            None => (&*line.quantity, false),
        };
        let quantity = decimal(quantity_digits, 6, 4).map(|q| if minus { -q } else { q });
        if quantity.is_none() {
            note("quantity", "a decimal number with at most 6 digits before the point and 4 after it");
        }
        let unit_price = decimal(&line.unit_price, 9, 4);
        if unit_price.is_none() {
            note(
                "unit_price",
                "a decimal number, not negative, with at most 9 digits before the point and 4 after it",
            );
        }
        let discount = percent(line.discount_percent.as_deref().unwrap_or("0"));
        if discount.is_none() {
            note("discount_percent", PERCENT_RULE);
        }
        let tax_rate = percent(&line.tax_rate);
        if tax_rate.is_none() {
            note("tax_rate", PERCENT_RULE);
        }
        let factor = (Decimal::ONE_HUNDRED - discount?) * PERCENT;
        Some(Self { quantity: quantity?, unit_price: unit_price?, factor, tax_rate: tax_rate?.normalize() })
    }
}

/// Rounds half to even, and pads to the currency's places. Zero has no sign.
fn rounded(amount: Decimal, places: u32) -> Decimal {
    let mut amount = amount.round_dp_with_strategy(places, RoundingStrategy::MidpointNearestEven);
    amount.rescale(places);
    if amount.is_zero() {
        amount.set_sign_positive(true);
    }
    amount
}

fn percent(text: &str) -> Option<Decimal> {
    decimal(text, 3, 2).filter(|percent| *percent <= Decimal::ONE_HUNDRED)
}

/// Digits, then perhaps a point and more digits; no sign, exponent or blank.
fn decimal(text: &str, most_whole: usize, most_fraction: usize) -> Option<Decimal> {
    let (whole, fraction) = match text.split_once('.') {
        Some((_, "")) => return None,
        Some(parts) => parts,
        None => (text, ""),
    };
    if whole.is_empty() || whole.len() > most_whole || fraction.len() > most_fraction {
        return None;
    }
    let mut mantissa = 0_i64;
    for digit in whole.bytes().chain(fraction.bytes()) {
        if !digit.is_ascii_digit() {
            return None;
        }
        mantissa = mantissa * 10 + i64::from(digit - b'0');
    }
    Some(Decimal::new(mantissa, u32::try_from(fraction.len()).ok()?))
}

/// Most faults told at once, as the gateway does for its own.
pub const MAX_FAULTS: usize = 20;

// Digits: quantity 6+4, price 9+4 and factor 1+4 make at most 28 for a line; its net has at most 15 whole digits and 3
// places, 200 of them 18 and 3, and times a rate of at most 5 digits 26.
const MAX_LINES: usize = 200;
const PERCENT_RULE: &str = "a decimal number from 0 to 100 with at most 2 digits after the point";
const PERCENT: Decimal = Decimal::from_parts(1, 0, 0, false, 2);

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(event: &str) -> Result<Totals<'_>, Vec<Fault>> {
        serde_json::from_str::<Invoice>(event).unwrap().totals()
    }

    fn one(
        currency: &str,
        quantity: &str,
        price: &str,
        discount: &str,
        rate: &str,
    ) -> (String, String, String) {
        let event = format!(
            r#"{{"currency":"{currency}","lines":[{{"description":"d","quantity":"{quantity}","unit_price":"{price}",
               "discount_percent":"{discount}","tax_rate":"{rate}"}}]}}"#
        );
        let totals = totals(&event).unwrap();
        (totals.net, totals.tax, totals.gross)
    }

    #[test]
    fn halves_go_to_the_even_neighbour() {
        assert_eq!(one("EUR", "1", "0.125", "0", "0").0, "0.12");
        assert_eq!(one("EUR", "1", "0.135", "0", "0").0, "0.14");
        assert_eq!(one("EUR", "-1", "0.125", "0", "0").0, "-0.12");
        assert_eq!(one("JPY", "1", "2.5", "0", "0").0, "2");
        assert_eq!(one("KWD", "1", "1.0005", "0", "0").0, "1.000");
    }

    #[test]
    fn zero_has_no_sign() {
        assert_eq!(one("EUR", "-0.01", "0.01", "0", "20"), ("0.00".into(), "0.00".into(), "0.00".into()));
    }

    #[test]
    fn the_largest_line_is_exact() {
        // 999999.9999 × 999999999.9999 × 0.9999, worked out with integers.
        let product = 9_999_999_999_i128 * 9_999_999_999_999 * 9_999;
        let cents = (product + 5_i128.pow(10) * 2_i128.pow(9)) / 10_i128.pow(10);
        let (net, ..) = one("EUR", "999999.9999", "999999999.9999", "0.01", "0");
        assert_eq!(net.replace('.', ""), cents.to_string());
    }

    #[test]
    fn one_rate_written_in_two_ways_is_one_rate() {
        let event = r#"{"currency":"EUR","lines":[
            {"description":"a","quantity":"1","unit_price":"0.03","tax_rate":"19"},
            {"description":"b","quantity":"1","unit_price":"0.03","tax_rate":"19.00"}]}"#;
        let totals = totals(event).unwrap();
        assert_eq!(totals.taxes, [Tax { rate: "19".into(), net: "0.06".into(), tax: "0.01".into() }]);
    }

    #[test]
    fn every_fault_is_told_with_its_place() {
        let event = r#"{"currency":"XXX","lines":[
            {"description":"a","quantity":"1e3","unit_price":"-1","discount_percent":"100.01","tax_rate":"."}]}"#;
        let pointers = totals(event).unwrap_err().into_iter().map(|fault| fault.pointer);
        assert_eq!(
            pointers.collect::<Vec<_>>(),
            [
                "/currency",
                "/lines/0/quantity",
                "/lines/0/unit_price",
                "/lines/0/discount_percent",
                "/lines/0/tax_rate"
            ]
        );
    }

    #[test]
    fn texts_that_are_not_plain_decimals_are_refused() {
        for text in ["", ".", "1.", ".5", "+1", "-1", "1 ", "1e1", "1,5", "١", "1.2.3", "1234567", "0.00001"]
        {
            assert_eq!(decimal(text, 6, 4), None, "{text}");
        }
    }
}
