//! The parts of a moment in UTC, as texts hold them: `{{ build.utc-year }}`.
//!
//! Templates from elsewhere write times in layouts of their own; each layout is made of these parts, and so such a text
//! waits for the build like any other `build.…`.

use super::build::Moment;

/// The names of the parts.
pub const PARTS: [&str; 20] = [
    "utc-year",
    "utc-yy",
    "utc-month",
    "utc-m",
    "utc-month-name",
    "utc-mon",
    "utc-day",
    "utc-d",
    "utc-day-blank",
    "utc-yearday",
    "utc-weekday",
    "utc-wday",
    "utc-hour",
    "utc-hour-12",
    "utc-h",
    "utc-minute",
    "utc-min",
    "utc-second",
    "utc-sec",
    "utc-half",
];

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// The parts of a moment, in the order of [`PARTS`].
pub fn parts(at: Moment) -> [(&'static str, String); PARTS.len()] {
    let seconds = at.0.div_euclid(1000);
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let twelve = if hour % 12 == 0 { 12 } else { hour % 12 };
    let name = |names: &[&'static str], index: i64| usize::try_from(index).ok().and_then(|at| names.get(at).copied());
    let month_name = name(&MONTHS, month - 1).unwrap_or_default();
    let weekday = name(&DAYS, (days + 4).rem_euclid(7)).unwrap_or_default();
    let short = |name: &str| name[..3.min(name.len())].to_owned();
    let values = [
        format!("{year:04}"),
        format!("{:02}", year.rem_euclid(100)),
        format!("{month:02}"),
        month.to_string(),
        month_name.to_owned(),
        short(month_name),
        format!("{day:02}"),
        day.to_string(),
        format!("{day:2}"),
        format!("{:03}", days - days_of(year, 1, 1) + 1),
        weekday.to_owned(),
        short(weekday),
        format!("{hour:02}"),
        format!("{twelve:02}"),
        twelve.to_string(),
        format!("{minute:02}"),
        minute.to_string(),
        format!("{second:02}"),
        second.to_string(),
        if hour < 12 { "AM" } else { "PM" }.to_owned(),
    ];
    let mut values = values.into_iter();
    PARTS.map(|name| (name, values.next().unwrap_or_default()))
}

/// Year, month and day of a number of days since 1970-01-01, by the calendar's period of 400 years, whose years begin in
/// March so that the leap day is a year's last.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + i64::from(month <= 2), month, day)
}

/// The days from 1970-01-01 to a day.
fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year) = (year.div_euclid(400), year.rem_euclid(400));
    let month = if month > 2 { month - 3 } else { month + 9 };
    let day = (153 * month + 2) / 5 + day - 1;
    era * 146_097 + year * 365 + year / 4 - year / 100 + day - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(at: i64) -> String {
        parts(Moment(at)).map(|(_, value)| value).join(" ")
    }

    #[test]
    fn the_parts_of_a_moment_are_those_of_the_calendar() {
        // `date -u -d @… '+%Y %y %m %-m %B %b %d %-d %e %j %A %a %H %I %-I %M %-M %S %-S %p'`
        assert_eq!(said(0), "1970 70 01 1 January Jan 01 1  1 001 Thursday Thu 00 12 12 00 0 00 0 AM");
        assert_eq!(said(1_709_211_845_999), "2024 24 02 2 February Feb 29 29 29 060 Thursday Thu 13 01 1 04 4 05 5 PM");
        assert_eq!(
            said(1_798_761_599_000),
            "2026 26 12 12 December Dec 31 31 31 365 Thursday Thu 23 11 11 59 59 59 59 PM"
        );
        assert_eq!(said(951_782_400_000), "2000 00 02 2 February Feb 29 29 29 060 Tuesday Tue 00 12 12 00 0 00 0 AM");
    }
}
