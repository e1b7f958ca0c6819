//! A vector whose places are used again.

/// Values under small numbers.
#[derive(Debug)]
pub(super) struct Slots<T> {
    items: Vec<Option<T>>,
    free: Vec<usize>,
}

impl<T> Slots<T> {
    pub(super) fn new() -> Self {
        Self { items: Vec::new(), free: Vec::new() }
    }

    /// Keeps a value; its number.
    pub(super) fn insert(&mut self, item: T) -> usize {
        match self.free.pop() {
            Some(key) => {
                self.items[key] = Some(item);
                key
            }
            None => {
                self.items.push(Some(item));
                self.items.len() - 1
            }
        }
    }

    pub(super) fn get(&self, key: usize) -> Option<&T> {
        self.items.get(key)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, key: usize) -> Option<&mut T> {
        self.items.get_mut(key)?.as_mut()
    }

    pub(super) fn remove(&mut self, key: usize) -> Option<T> {
        let item = self.items.get_mut(key)?.take()?;
        self.free.push(key);
        Some(item)
    }

    pub(super) fn len(&self) -> usize {
        self.items.len() - self.free.len()
    }

    /// The numbers that are in use.
    pub(super) fn keys(&self) -> impl Iterator<Item = usize> + '_ {
        self.items.iter().enumerate().filter_map(|(key, item)| item.as_ref().map(|_| key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_used_again() {
        let mut slots = Slots::new();
        let (a, b) = (slots.insert('a'), slots.insert('b'));
        assert_eq!(slots.remove(a), Some('a'));
        assert_eq!(slots.remove(a), None);
        assert_eq!(slots.insert('c'), a);
        assert_eq!((slots.len(), slots.get(b)), (2, Some(&'b')));
        assert_eq!(slots.keys().collect::<Vec<_>>(), vec![a, b]);
    }
}
