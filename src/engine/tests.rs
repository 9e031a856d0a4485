//! The engine by itself: order, repeats, one outcome, slow and failing stores.
