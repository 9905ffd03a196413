//! Which bundle is based on which: names are looked up, cycles are found, and bases come before what is based on them.

use std::collections::{BTreeMap, HashMap};

use crate::domain::path::RepoPath;

/// What a name in `boot.image` means in one repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Base {
    /// No bundle: an image of the catalogue or an alias.
    None,
    /// This bundle, by index.
    Bundle(usize),
    /// More than one bundle has this last part.
    Several(Vec<usize>),
}

/// The names of all bundles.
pub(super) struct Names<'p> {
    paths: HashMap<&'p [u8], usize>,
    last_parts: HashMap<&'p [u8], Vec<usize>>,
}

impl<'p> Names<'p> {
    /// The names of bundles in the order of their index.
    pub(super) fn new(bundles: impl Iterator<Item = &'p RepoPath>) -> Self {
        let mut names = Self { paths: HashMap::new(), last_parts: HashMap::new() };
        for (index, path) in bundles.enumerate() {
            names.paths.insert(path.as_bytes(), index);
            names.last_parts.entry(path.name()).or_default().push(index);
        }
        names
    }

    /// What a name means.
    pub(super) fn find(&self, name: &str) -> Base {
        let path = RepoPath::new(name).unwrap_or_default();
        if let Some(index) = self.paths.get(path.as_bytes()) {
            return Base::Bundle(*index);
        }
        match self.last_parts.get(name.as_bytes()).map(Vec::as_slice) {
            None | Some([]) => Base::None,
            Some([one]) => Base::Bundle(*one),
            Some(several) => Base::Several(several.to_vec()),
        }
    }
}

/// The order in which bundles are finished: a base before those based on it. Bundles on a cycle are in none.
pub(super) struct Order {
    /// The bundles that are on no cycle and lead to none.
    pub(super) order: Vec<usize>,
    /// For each bundle on a cycle, the whole cycle, beginning with it.
    pub(super) cycles: BTreeMap<usize, Vec<usize>>,
    /// Bundles that lead into a cycle, with their base, a base before those based on it.
    pub(super) behind: Vec<usize>,
}

/// Sorts bundles by their bases. `bases` has the index of each one's base.
pub(super) fn sort(bases: &[Option<usize>]) -> Order {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        New,
        Open,
        Done,
        Lost,
    }
    let mut marks = vec![Mark::New; bases.len()];
    let mut order = Order { order: Vec::new(), cycles: BTreeMap::new(), behind: Vec::new() };
    for start in 0..bases.len() {
        let mut chain = Vec::new();
        let mut at = Some(start);
        while let Some(index) = at.filter(|index| marks[*index] == Mark::New) {
            marks[index] = Mark::Open;
            chain.push(index);
            at = bases[index];
        }
        let mut end = at.map_or(Mark::Done, |index| marks[index]);
        if end == Mark::Open {
            // The chain met itself: from there on it is a cycle.
            let from = chain.iter().position(|index| Some(*index) == at).unwrap_or(0);
            let cycle = chain.split_off(from);
            for (turn, index) in cycle.iter().enumerate() {
                marks[*index] = Mark::Lost;
                order.cycles.insert(*index, [&cycle[turn..], &cycle[..turn]].concat());
            }
            end = Mark::Lost;
        }
        for index in chain.into_iter().rev() {
            marks[index] = end;
            if end == Mark::Lost { order.behind.push(index) } else { order.order.push(index) }
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bases_come_first_and_cycles_are_shown_from_each_member() {
        let order = sort(&[Some(2), None, Some(1), Some(4), Some(3), Some(4), Some(6)]);
        assert_eq!(order.order, [1, 2, 0]);
        assert_eq!(order.cycles[&3], [3, 4]);
        assert_eq!(order.cycles[&4], [4, 3]);
        assert_eq!(order.cycles[&6], [6]);
        assert_eq!(order.behind, [5]);
    }

    #[test]
    fn a_path_is_stronger_than_a_last_part() {
        let paths = ["a/x", "b/x", "x", "b/y"].map(|path| RepoPath::new(path).expect("inside"));
        let names = Names::new(paths.iter());
        assert_eq!(names.find("x"), Base::Bundle(2));
        assert_eq!(names.find("a/x"), Base::Bundle(0));
        assert_eq!(names.find("y"), Base::Bundle(3));
        assert_eq!(names.find("z"), Base::None);
        assert_eq!(Names::new(paths[..2].iter()).find("x"), Base::Several(vec![0, 1]));
    }
}
