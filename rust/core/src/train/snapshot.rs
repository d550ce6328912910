//! What a fit returns to if training diverges.

use crate::along::walk;
use crate::arena::Buffer;
use crate::element::Element;
use crate::error::Error;
use crate::model::Model;
use crate::optim::{Optimizer, Saved};
use crate::project::Place;
use crate::update::copy;

/// Parameters and optimizer before a fit, to be restored if training diverges.
pub(super) struct Snapshot<T: Element> {
    pub params: Buffer<T>,
    pub averages: Buffer<T>,
    pub passes: u64,
    pub optimizer: Saved<T>,
    /// The average of the parameters, and of how many steps it is.
    pub average: Option<(Vec<T>, u64)>,
    /// What moves of the parameters have gained.
    pub path: Option<Vec<T>>,
    /// How far the parameters went.
    pub walk: Option<[Vec<T>; walk::PARTS]>,
    /// Which remembered samples come next.
    pub place: Option<Place>,
}

impl<T: Element> Snapshot<T> {
    /// Takes a snapshot, in the memory of an old one if that fits.
    pub fn take(spare: Option<Self>, model: &Model<T>, optimizer: &Optimizer<T>) -> Result<Self, Error> {
        let Model { params, averages, .. } = model;
        let fits = |s: &Self| s.params.len() == params.len() && s.averages.len() == averages.len();
        let mut snapshot = match spare.filter(fits) {
            Some(spare) => Snapshot { optimizer: optimizer.save(Some(spare.optimizer))?, ..spare },
            None => Snapshot {
                params: Buffer::zeroed("a copy of the parameters", params.len())?,
                averages: Buffer::zeroed("a copy of the running averages", averages.len())?,
                passes: 0,
                optimizer: optimizer.save(None)?,
                average: None,
                path: None,
                walk: None,
                place: None,
            },
        };
        copy(&mut snapshot.params, params);
        snapshot.averages.copy_from_slice(averages);
        snapshot.passes = model.passes();
        Ok(snapshot)
    }
}
