//! Parameter groups: different hyper-parameters, or no training at all, for parameters whose names match a
//! pattern.

use std::ops::Range;

use super::{Config, Options, Scalars, Step};
use crate::error::Error;
use crate::network::Block;

/// Parameters that differ from the rest in what is given here. Of several groups that a parameter belongs to,
/// each says what it says, and the last one that says something counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Group {
    /// Names that belong to the group, such as `0.*` or `*.bias`: `*` stands for any characters, `?` for one.
    pub pattern: String,
    /// Hyper-parameters, by name; but not the learning rate, which is the optimizer's.
    pub changes: Options,
    /// Factor applied to the optimizer's learning rate.
    pub lr_scale: Option<f64>,
    /// Whether these parameters stay as they are.
    pub frozen: Option<bool>,
}

/// What the groups of some parameters say together.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Setting {
    pub(super) config: Config,
    pub(super) lr_scale: f64,
    pub(super) frozen: bool,
}

impl Setting {
    fn of<'g>(groups: impl Iterator<Item = &'g Group>, config: &Config) -> Result<Self, Error> {
        let mut setting = Setting { config: *config, lr_scale: 1.0, frozen: false };
        for group in groups {
            setting.config = setting.config.with(&group.changes)?;
            setting.lr_scale = group.lr_scale.unwrap_or(setting.lr_scale);
            setting.frozen = group.frozen.unwrap_or(setting.frozen);
        }
        Ok(setting)
    }
}

/// A block of the arena, with what sets it apart from others.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Member {
    /// Its place.
    pub(super) range: Range<usize>,
    /// Its setting, if it belongs to any group.
    pub(super) setting: Option<usize>,
    /// Its time, if it was frozen during some of the optimizer's steps.
    pub(super) clock: Option<Clock>,
}

/// How many steps some parameters have made, and the scalars of their state.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clock {
    /// Number of steps.
    pub steps: u64,
    /// The [scalars](Config::scalars), where they depend on time only.
    pub scalars: Scalars,
}

/// Clocks by the names of their blocks.
pub type Clocks = Vec<(String, Clock)>;

/// The blocks of a network in the arena's order, and the settings of those that belong to groups of an
/// optimizer.
pub(super) fn members(
    groups: &[Group],
    blocks: &[Block],
    config: &Config,
) -> Result<(Vec<Member>, Vec<Setting>), Error> {
    for group in groups {
        if !blocks.iter().any(|b| matches(&group.pattern, &b.name)) {
            let names: Vec<_> = blocks.iter().map(|b| b.name.as_str()).collect();
            return Err(Error::argument(
                "pattern",
                format!("{:?}", group.pattern),
                format!("it matches no parameter; the parameters are {}", names.join(", ")),
            ));
        }
    }
    // Which groups have been found together so far.
    let mut together: Vec<Vec<usize>> = Vec::new();
    let mut members = Vec::new();
    for block in blocks {
        let own: Vec<_> = (0..groups.len()).filter(|&i| matches(&groups[i].pattern, &block.name)).collect();
        let known = together.iter().position(|other| *other == own);
        let setting = (!own.is_empty()).then(|| known.unwrap_or(together.len()));
        if known.is_none() && !own.is_empty() {
            together.push(own);
        }
        members.push(Member { range: block.offset..block.offset + block.len(), setting, clock: None });
    }
    members.sort_by_key(|m| m.range.start);
    let setting = |own: Vec<usize>| Setting::of(own.into_iter().map(|i| &groups[i]), config);
    Ok((members, together.into_iter().map(setting).collect::<Result<_, _>>()?))
}

/// Whether a name matches a pattern of `*` and `?`.
fn matches(pattern: &str, name: &str) -> bool {
    let mut rest = pattern.chars();
    match rest.next() {
        None => name.is_empty(),
        Some('*') => {
            let ends = name.char_indices().map(|(i, _)| i).chain([name.len()]);
            ends.into_iter().any(|i| matches(rest.as_str(), &name[i..]))
        }
        Some(c) => {
            let mut left = name.chars();
            left.next().is_some_and(|n| c == '?' || c == n) && matches(rest.as_str(), left.as_str())
        }
    }
}

/// What a step does to each parameter.
#[derive(Clone, Copy)]
pub struct Steps<'a> {
    pub(super) usual: Step,
    /// What it does to each member; `None` if it is frozen.
    pub(super) apart: &'a [Option<Step>],
    pub(super) members: &'a [Member],
}

impl Steps<'_> {
    /// What is done to the block that contains an element of the arena; `None` if nothing is.
    pub fn at(&self, element: usize) -> Option<&Step> {
        match self.find(element).ok() {
            None => Some(&self.usual),
            Some(i) => self.apart[i].as_ref(),
        }
    }

    /// Splits a part of the arena where what is done changes.
    pub fn parts(&self, range: Range<usize>) -> impl Iterator<Item = (Range<usize>, Option<&Step>)> {
        let mut from = range.start;
        std::iter::from_fn(move || {
            if from >= range.end {
                return None;
            }
            let end = match self.find(from) {
                Ok(i) => self.members[i].range.end,
                Err(i) => self.members.get(i).map_or(range.end, |m| m.range.start),
            };
            let part = from..end.min(range.end);
            from = part.end;
            Some((part.clone(), self.at(part.start)))
        })
    }

    /// The member that contains an element, or else the next one after it.
    fn find(&self, element: usize) -> Result<usize, usize> {
        let behind = self.members.partition_point(|m| m.range.end <= element);
        match self.members.get(behind) {
            Some(m) if m.range.contains(&element) => Ok(behind),
            _ => Err(behind),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_on_a_command_line() {
        for (pattern, name, expected) in [
            ("0.weight", "0.weight", true),
            ("0.weight", "10.weight", false),
            ("*.weight", "10.weight", true),
            ("*.bias", "0.weight", false),
            ("?.bias", "3.bias", true),
            ("?.bias", "13.bias", false),
            ("*", "anything", true),
            ("1*.w*t", "12.weight", true),
            ("", "0.bias", false),
            ("0.*", "0.", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn parts_cover_a_range_and_change_where_blocks_do() {
        let step = Config::Sgd(super::super::Sgd::default()).at(1, &super::super::Scalars::default());
        let member = |range| Member { range, setting: None, clock: None };
        let members = [member(10..14), member(16..20)];
        let steps = Steps { usual: step, apart: &[None, Some(step)], members: &members };
        let parts: Vec<_> = steps.parts(8..18).map(|(r, s)| (r, s.is_some())).collect();
        assert_eq!(parts, [(8..10, true), (10..14, false), (14..16, true), (16..18, true)]);
        assert!(steps.parts(11..13).map(|(r, _)| r).eq(std::iter::once(11..13)));
        let none = Steps { members: &[], ..steps };
        assert!(none.parts(3..99).map(|(r, _)| r).eq(std::iter::once(3..99)));
        assert!(steps.at(13).is_none() && steps.at(14).is_some());
    }
}
