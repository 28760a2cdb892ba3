//! Currencies and their minor units.

/// Decimal places of a currency's smallest unit (ISO 4217 "minor unit"), or nothing for a code that is not in use.
pub fn minor_units(code: &str) -> Option<u32> {
    let lists = [(2, TWO_PLACES), (0, NO_PLACES), (3, THREE_PLACES)];
    let (places, _) =
        lists.into_iter().find(|(_, codes)| code.len() == 3 && codes.split(' ').any(|c| c == code))?;
    Some(places)
}

// ISO 4217 list one, without funds, metals and test codes: nobody bills in those.
const NO_PLACES: &str = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX VND VUV XAF XOF XPF";
const THREE_PLACES: &str = "BHD IQD JOD KWD LYD OMR TND";
const TWO_PLACES: &str = "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF \
     CHF CNY COP CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR \
     ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR \
     MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP \
     STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD UYU UZS VED VES WST XCD XCG YER ZAR ZMW ZWG";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minor_units_follow_iso_4217() {
        for (code, places) in
            [("EUR", 2), ("USD", 2), ("JPY", 0), ("KRW", 0), ("KWD", 3), ("TND", 3), ("ZWG", 2)]
        {
            assert_eq!(minor_units(code), Some(places), "{code}");
        }
        for code in ["", "eur", "XXX", "XAU", "EU", "EUR ", "R U", "AED AFN"] {
            assert_eq!(minor_units(code), None, "{code}");
        }
    }
}
