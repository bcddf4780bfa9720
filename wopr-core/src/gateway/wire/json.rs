//! JSON as it is borrowed from a body.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// More fields than any call has: comparing them with each other must stay cheap.
const FIELDS_MAX: usize = 256;

/// The fields of an object in their order, each value as it is written.
#[derive(Debug)]
pub(super) struct Object<'a>(pub(super) Vec<(Text<'a>, &'a RawValue)>);

impl<'a> Object<'a> {
    /// The value of a field, unless it is missing or `null`.
    pub(super) fn get(&self, name: &str) -> Option<&'a RawValue> {
        let (_, value) = self.0.iter().find(|(field, _)| field == name)?;
        (value.get() != "null").then_some(*value)
    }

    /// A field that is there twice: whom it means is for every reader to guess.
    pub(super) fn doubled(&self) -> Option<&str> {
        let fields = self.0.iter().enumerate();
        let mut doubled = fields.filter(|(at, (field, _))| self.0[..*at].iter().any(|(before, _)| **before == **field));
        doubled.next().map(|(_, (field, _))| &*field.0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::with_capacity(16);
                while let Some(field) = map.next_entry()? {
                    if fields.len() == FIELDS_MAX {
                        return Err(serde::de::Error::custom(format_args!("more than {FIELDS_MAX} fields")));
                    }
                    fields.push(field);
                }
                Ok(Object(fields))
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// A text, borrowed where it has no escapes. Whatever is no text is read as an empty one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Text<'a>(pub(super) Cow<'a, str>);

impl std::ops::Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl PartialEq<str> for Text<'_> {
    fn eq(&self, other: &str) -> bool {
        self.0 == *other
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("anything")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Text::default())
            }

            fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
                Ok(Text::default())
            }

            fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
                Ok(Text::default())
            }

            fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
                Ok(Text::default())
            }

            fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
                Ok(Text::default())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
                while items.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Text::default())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self::Value, A::Error> {
                while fields.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Text::default())
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// A count, if it is one: whatever is no whole number from zero is none.
pub(super) fn count(value: Option<&RawValue>) -> Option<u64> {
    value.and_then(|value| value.get().parse().ok())
}

/// A text, if it is one.
pub(super) fn text(value: &RawValue) -> Option<String> {
    serde_json::from_str(value.get()).ok()
}

/// Where in `body` a value lies that was borrowed from it.
pub(super) fn place(body: &[u8], value: &RawValue) -> Range<usize> {
    let start = value.get().as_ptr().addr() - body.as_ptr().addr();
    start..start + value.get().len()
}

/// Shows each item of an array, without keeping them.
pub(super) fn each<'a>(array: &'a RawValue, item: impl FnMut(&'a RawValue)) -> Result<(), serde_json::Error> {
    struct Each<F>(F);
    impl<'de, F: FnMut(&'de RawValue)> Visitor<'de> for Each<F> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array")
        }

        fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
            while let Some(item) = items.next_element()? {
                (self.0)(item);
            }
            Ok(())
        }
    }
    serde_json::Deserializer::from_str(array.get()).deserialize_seq(Each(item))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_keeps_order_bytes_and_doubles() {
        let object: Object<'_> = serde_json::from_str(r#"{"b": 1.50, "a\u0062": {"x" :1}, "n": null}"#).unwrap();
        let fields: Vec<_> = object.0.iter().map(|(name, value)| (&**name, value.get())).collect();
        assert_eq!(fields, [("b", "1.50"), ("ab", r#"{"x" :1}"#), ("n", "null")]);
        assert_eq!(object.get("b").map(RawValue::get), Some("1.50"));
        assert!(object.get("n").is_none() && object.get("c").is_none() && object.doubled().is_none());
        let twice: Object<'_> = serde_json::from_str(r#"{"a":1,"b":2,"\u0061":3}"#).unwrap();
        assert_eq!(twice.doubled(), Some("a"));
        let fields: Vec<_> = (0..=FIELDS_MAX).map(|at| format!("\"{at}\":0")).collect();
        let read = |fields: &[String]| serde_json::from_str::<Object<'_>>(&format!("{{{}}}", fields.join(","))).is_ok();
        assert!(read(&fields[1..]) && !read(&fields));
    }

    #[test]
    fn whatever_is_no_text_is_an_empty_one() {
        let table = [
            (r#""é\n""#, "é\n"),
            (r#""plain""#, "plain"),
            ("null", ""),
            ("true", ""),
            ("-1", ""),
            ("1", ""),
            ("1.5", ""),
            (r#"["a",[1]]"#, ""),
            (r#"{"a":{"b":1}}"#, ""),
        ];
        for (json, expected) in table {
            assert_eq!(&*serde_json::from_str::<Text<'_>>(json).unwrap(), expected, "{json}");
        }
        let counts = [("12", Some(12)), ("0", Some(0)), ("-1", None), ("1.0", None), ("\"1\"", None), ("null", None)];
        for (json, expected) in counts {
            assert_eq!(count(Some(serde_json::from_str(json).unwrap())), expected, "{json}");
        }
    }
}
