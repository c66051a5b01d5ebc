//! Longest-prefix match in a map that shares what did not change.
//!
//! In:  prefixes with their values. Out: the values whose prefix contains an address, the longest prefix first.
//! A copy of the map costs nothing, and a change of one prefix copies the nodes above it: with a million prefixes some
//! 25 of them. While nobody else holds the map, a change is made in place.
//! Never: allocates in a lookup.
//! Ref:  Driscoll, Sarnak, Sleator, Tarjan, "Making Data Structures Persistent" (path copying); Morrison, PATRICIA.

use std::sync::Arc;

/// The bits of an address, the first one the highest.
pub(crate) trait Bits: Copy + Eq {
    /// How many there are.
    const LEN: u8;

    /// The bit at `at`, from 0 for the first one.
    fn bit(self, at: u8) -> usize;

    /// Its first `len` bits; the others are 0.
    fn first(self, len: u8) -> Self;

    /// How many bits the two have in common from the first one on.
    fn common_len(self, other: Self) -> u8;
}

macro_rules! bits {
    ($number:ty) => {
        impl Bits for $number {
            const LEN: u8 = <$number>::BITS as u8;

            #[inline]
            fn bit(self, at: u8) -> usize {
                (self >> (Self::LEN - 1 - at) & 1) as usize
            }

            #[inline]
            fn first(self, len: u8) -> Self {
                match len {
                    0 => 0,
                    len => self & (Self::MAX << (Self::LEN - len)),
                }
            }

            #[inline]
            fn common_len(self, other: Self) -> u8 {
                (self ^ other).leading_zeros() as u8
            }
        }
    };
}

bits!(u32);
bits!(u128);

#[derive(Clone, Debug)]
struct Node<K, V> {
    bits: K,
    len: u8,
    value: Option<V>,
    children: [Link<K, V>; 2],
}

type Link<K, V> = Option<Arc<Node<K, V>>>;

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Trie<K, V> {
    root: Link<K, V>,
}

impl<K, V> Default for Trie<K, V> {
    fn default() -> Self {
        Self { root: None }
    }
}

impl<K: Bits, V: Clone + PartialEq> Trie<K, V> {
    /// Takes from `known`, another version of this map, the nodes in which the two are equal, and drops its own.
    pub(crate) fn reuse(&mut self, known: &Self) {
        if let Some(root) = &mut self.root {
            reuse(root, &known.root);
        }
    }
}

impl<K: Bits, V: Clone> Trie<K, V> {
    /// Changes the value of the prefix of `len` bits: `change` gets the present one and says the new one.
    pub(crate) fn update(&mut self, bits: K, len: u8, change: impl FnOnce(Option<V>) -> Option<V>) {
        update(&mut self.root, bits.first(len), len, change);
    }

    /// Asks `accept` about the values whose prefix contains `bits`, the longest prefix first, with its length, until
    /// it gives an answer.
    #[inline]
    pub(crate) fn find<'t, T>(&'t self, bits: K, accept: &mut impl FnMut(u8, &'t V) -> Option<T>) -> Option<T> {
        find(self.root.as_deref()?, bits, accept)
    }

    /// All prefixes with their values, in order.
    pub(crate) fn for_each<'t>(&'t self, look: &mut impl FnMut(K, u8, &'t V)) {
        if let Some(root) = &self.root {
            visit(root, look);
        }
    }
}

fn visit<'t, K: Bits, V>(node: &'t Node<K, V>, look: &mut impl FnMut(K, u8, &'t V)) {
    if let Some(value) = &node.value {
        look(node.bits, node.len, value);
    }
    for child in node.children.iter().flatten() {
        visit(child, look);
    }
}

/// No deeper than an address has bits. The same prefixes make the same nodes, in whatever order they came.
fn reuse<K: Bits, V: Clone + PartialEq>(link: &mut Arc<Node<K, V>>, known: &Link<K, V>) {
    let Some(other) = known else {
        return;
    };
    let common = link.bits.common_len(other.bits).min(link.len).min(other.len);
    if common < link.len {
        // The other's nodes for these prefixes lie below it, if there are any.
        if common == other.len {
            reuse(link, &other.children[link.bits.bit(other.len)]);
        }
        return;
    }
    let node = Arc::make_mut(link);
    if common < other.len {
        if let Some(child) = &mut node.children[other.bits.bit(common)] {
            reuse(child, known);
        }
        return;
    }
    for (child, known) in node.children.iter_mut().zip(&other.children) {
        if let Some(child) = child {
            reuse(child, known);
        }
    }
    let is_same = |(one, two): (&Link<K, V>, &Link<K, V>)| match (one, two) {
        (Some(one), Some(two)) => Arc::ptr_eq(one, two),
        (one, two) => one.is_none() && two.is_none(),
    };
    if node.value == other.value && node.children.iter().zip(&other.children).all(is_same) {
        *link = Arc::clone(other);
    }
}

/// No deeper than an address has bits.
fn find<'t, K: Bits, V, T>(
    node: &'t Node<K, V>,
    bits: K,
    accept: &mut impl FnMut(u8, &'t V) -> Option<T>,
) -> Option<T> {
    if bits.common_len(node.bits) < node.len {
        return None;
    }
    if node.len < K::LEN
        && let Some(child) = &node.children[bits.bit(node.len)]
        && let Some(found) = find(child, bits, accept)
    {
        return Some(found);
    }
    node.value.as_ref().and_then(|value| accept(node.len, value))
}

fn update<K: Bits, V: Clone>(link: &mut Link<K, V>, bits: K, len: u8, change: impl FnOnce(Option<V>) -> Option<V>) {
    let Some(shared) = link else {
        *link = change(None).map(|value| Arc::new(leaf(bits, len, value)));
        return;
    };
    let common = bits.common_len(shared.bits).min(len).min(shared.len);
    if common < shared.len {
        if let Some(value) = change(None) {
            split(link, leaf(bits, len, value), common);
        }
        return;
    }
    let node = Arc::make_mut(shared);
    if common == len {
        node.value = change(node.value.take());
    } else {
        update(&mut node.children[bits.bit(node.len)], bits, len, change);
    }
    prune(link);
}

const fn leaf<K, V>(bits: K, len: u8, value: V) -> Node<K, V> {
    Node {
        bits,
        len,
        value: Some(value),
        children: [None, None],
    }
}

/// Puts `new` above or beside the node of `link`, with which it shares `common` bits.
fn split<K: Bits, V: Clone>(link: &mut Link<K, V>, new: Node<K, V>, common: u8) {
    let Some(old) = link.take() else {
        return;
    };
    let mut above = if new.len == common {
        new
    } else {
        let mut fork = Node {
            bits: new.bits.first(common),
            len: common,
            value: None,
            children: [None, None],
        };
        let side = new.bits.bit(common);
        fork.children[side] = Some(Arc::new(new));
        fork
    };
    let side = old.bits.bit(common);
    above.children[side] = Some(old);
    *link = Some(Arc::new(above));
}

/// A node without a value has two children.
fn prune<K, V: Clone>(link: &mut Link<K, V>)
where
    K: Copy,
{
    let Some(node) = link.as_ref().filter(|node| node.value.is_none()) else {
        return;
    };
    let only = match &node.children {
        [Some(_), Some(_)] => return,
        [Some(child), None] | [None, Some(child)] => Some(Arc::clone(child)),
        [None, None] => None,
    };
    *link = only;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Prefixes around few high bits, so that they overlap.
    fn prefix() -> impl Strategy<Value = (u32, u8)> {
        (any::<u32>(), 0..=32u8).prop_map(|(bits, len)| ((bits & 0xc007_0003).first(len), len))
    }

    fn matches(trie: &Trie<u32, u32>, addr: u32) -> Vec<(u8, u32)> {
        let mut seen = Vec::new();
        let _: Option<()> = trie.find(addr, &mut |len, value| {
            seen.push((len, *value));
            None
        });
        seen
    }

    /// The nodes, by their addresses in memory.
    fn nodes<V>(link: &Link<u32, V>) -> std::collections::HashSet<usize> {
        let Some(node) = link else {
            return std::collections::HashSet::new();
        };
        let mut found: std::collections::HashSet<usize> = node.children.iter().flat_map(nodes).collect();
        found.insert(Arc::as_ptr(node) as usize);
        found
    }

    proptest! {
        #![proptest_config(crate::testing::properties())]

        #[test]
        fn a_map_that_is_made_anew_shares_all_but_what_has_changed(
            before in prop::collection::btree_map(prefix(), 0..3u32, 0..60),
            changes in prop::collection::vec((prefix(), prop::option::of(0..3u32)), 0..6),
        ) {
            let made = |prefixes: &std::collections::BTreeMap<(u32, u8), u32>| {
                let mut trie = Trie::default();
                prefixes.iter().for_each(|(prefix, value)| trie.update(prefix.0, prefix.1, |_| Some(*value)));
                trie
            };
            let (known, mut after) = (made(&before), before);
            let mut changed = known.clone();
            for (prefix, value) in changes {
                after.remove(&prefix);
                after.extend(value.map(|value| (prefix, value)));
                changed.update(prefix.0, prefix.1, |_| value);
            }
            let mut renewed = made(&after);
            renewed.reuse(&known);
            let mut listed = std::collections::BTreeMap::new();
            renewed.for_each(&mut |bits, len, value| listed.extend([((bits, len), *value)]));
            prop_assert_eq!(listed, after);
            let own = |trie: &Trie<u32, u32>| nodes(&trie.root).difference(&nodes(&known.root)).count();
            prop_assert!(own(&renewed) <= own(&changed), "{} {}", own(&renewed), own(&changed));
        }


        #[test]
        fn it_finds_what_a_linear_scan_finds_and_old_copies_stay_as_they_were(
            changes in prop::collection::vec((prefix(), prop::option::weighted(0.7, any::<u32>())), 0..60),
            addresses in prop::collection::vec(any::<u32>().prop_map(|bits| bits & 0xc007_0007), 20),
        ) {
            let mut trie = Trie::default();
            let mut listed: Vec<((u32, u8), u32)> = Vec::new();
            let mut copies = Vec::new();
            for (prefix, value) in changes {
                trie.update(prefix.0, prefix.1, |_| value);
                listed.retain(|known| known.0 != prefix);
                listed.extend(value.map(|value| (prefix, value)));
                copies.push((trie.clone(), listed.clone()));
            }
            for (trie, listed) in &copies {
                for &addr in &addresses {
                    let mut expected: Vec<(u8, u32)> = listed
                        .iter()
                        .filter(|((bits, len), _)| addr.first(*len) == *bits)
                        .map(|((_, len), value)| (*len, *value))
                        .collect();
                    expected.sort_by_key(|(len, _)| std::cmp::Reverse(*len));
                    prop_assert_eq!(matches(trie, addr), expected);
                }
                let mut count = 0;
                trie.for_each(&mut |_, _, _| count += 1);
                prop_assert_eq!(count, listed.len());
            }
        }
    }
}
