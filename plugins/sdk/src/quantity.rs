//! Quantities as the Kubernetes API writes them.

/// Reads a quantity that denotes an integer of 0 or more, as in `8`, `8k`, `8Ki`, `8000m`, `0.5k` or `8e3`.
/// `None` for everything else, as in `7500m`, `-1` or `x`. What exceeds `u64` reads as `u64::MAX`: the API
/// server itself cuts at 2^63-1.
pub fn whole(quantity: &str) -> Option<u64> {
    let (negative, unsigned) = match quantity.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, quantity.strip_prefix('+').unwrap_or(quantity)),
    };
    let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at_checked(end)?;
    let (mantissa, tens) = decimal(number)?;
    let (suffix_tens, mut twos) = scale(suffix)?;
    if mantissa == 0 {
        return Some(0);
    }
    if negative {
        return None;
    }
    let mut value = mantissa;
    let tens = tens.saturating_add(suffix_tens);
    // Each tenth takes one factor of five and one of two away; both must be there.
    for _ in tens..0 {
        if value % 10 == 0 {
            value /= 10;
        } else if value % 5 == 0 && twos > 0 {
            value /= 5;
            twos -= 1;
        } else {
            return None;
        }
    }
    // Both loops end early: the first as a mantissa has few factors, the second at the first overflow.
    for _ in 0..tens {
        let Some(larger) = value.checked_mul(10) else {
            return Some(u64::MAX);
        };
        value = larger;
    }
    Some(u64::try_from(value.saturating_mul(1 << twos)).unwrap_or(u64::MAX))
}

/// Digits with at most one point, as a mantissa without trailing zeros and the power of ten that goes with
/// it. `None` if there is no digit, or there are more than the API server ever writes.
fn decimal(number: &str) -> Option<(u128, i32)> {
    let (mut mantissa, mut zeros, mut fraction) = (0_u128, 0_u32, 0_i32);
    let (mut digits, mut point) = (false, false);
    for byte in number.bytes() {
        if byte == b'.' {
            if point {
                return None;
            }
            point = true;
            continue;
        }
        digits = true;
        fraction += i32::from(point);
        if byte == b'0' {
            zeros += 1;
        } else {
            let shift = if mantissa == 0 { 1 } else { 10_u128.checked_pow(zeros + 1)? };
            mantissa = mantissa.checked_mul(shift)?.checked_add(u128::from(byte - b'0'))?;
            zeros = 0;
        }
    }
    digits.then_some((mantissa, i32::try_from(zeros).ok()? - fraction))
}

/// The powers of ten and of two a suffix stands for.
fn scale(suffix: &str) -> Option<(i32, u32)> {
    Some(match suffix {
        "n" => (-9, 0),
        "u" => (-6, 0),
        "m" => (-3, 0),
        "" => (0, 0),
        "k" => (3, 0),
        "M" => (6, 0),
        "G" => (9, 0),
        "T" => (12, 0),
        "P" => (15, 0),
        "E" => (18, 0),
        "Ki" => (0, 10),
        "Mi" => (0, 20),
        "Gi" => (0, 30),
        "Ti" => (0, 40),
        "Pi" => (0, 50),
        "Ei" => (0, 60),
        exponent => (exponent.strip_prefix(['e', 'E'])?.parse().ok()?, 0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(quantity: &str, expected: Option<u64>) {
        assert_eq!(whole(quantity), expected, "{quantity:?}");
    }

    #[test]
    fn r64_what_denotes_an_integer_is_whole() {
        check("8", Some(8));
        check("08", Some(8));
        check("+8", Some(8));
        check("8.", Some(8));
        check("8k", Some(8_000));
        check("8000m", Some(8));
        check("8000000u", Some(8));
        check("8000000000n", Some(8));
        check("2Gi", Some(2_147_483_648));
        check("0.5k", Some(500));
        check(".5k", Some(500));
        check("1.50Ki", Some(1_536));
        check("0.125Ki", Some(128));
        check("8e3", Some(8_000));
        check("8E3", Some(8_000));
        check("8000e-3", Some(8));
        check("1E", Some(1_000_000_000_000_000_000));
    }

    #[test]
    fn r64_zero_is_whole_in_every_spelling() {
        for zero in ["0", "-0", "00", "0.000", "0m", "0Ki", "0e-999999999"] {
            check(zero, Some(0));
        }
    }

    #[test]
    fn r64_parts_and_debts_are_not_whole() {
        for quantity in ["7500m", "7.5", "0.5", "1n", "1e-1", "0.0001Ki", "-1", "-8k", "5e-2147483648"] {
            check(quantity, None);
        }
    }

    #[test]
    fn r64_what_is_no_quantity_is_not_whole() {
        for quantity in ["", " 8", "8 ", "x", "k", ".", "1.2.3", "--8", "8K", "8ki", "8kk", "8e", "8e+", "0x8", "٨"] {
            check(quantity, None);
        }
    }

    #[test]
    fn what_is_too_large_is_cut() {
        check("18446744073709551615", Some(u64::MAX));
        check("18446744073709551616", Some(u64::MAX));
        check("100E", Some(u64::MAX));
        check("100Ei", Some(u64::MAX));
        check("1e2147483647", Some(u64::MAX));
        check("340282366920938463463374607431768211455Ei", Some(u64::MAX));
    }

    #[test]
    fn zeros_alone_never_overflow() {
        check(&format!("1.{}", "0".repeat(1_000)), Some(1));
        check(&format!("{}1", "0".repeat(1_000)), Some(1));
        check(&format!("1{}", "0".repeat(1_000)), Some(u64::MAX));
        check(&format!("1{}1", "0".repeat(1_000)), None);
    }
}
