//! The one way in which the management core takes a lock.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Takes the lock. Every change under a lock is all or nothing, so what a task that panicked left behind is whole.
pub fn lock<T: ?Sized>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
