//! How a product will be computed: what is packed, and how k is blocked. Plain data, decided from shapes
//! alone, so that the decision can be read, compared and tested without doing arithmetic.

use super::pack::PANEL;
use super::split::{self, Precision};
use crate::element::Element;
use crate::simd::{Amx, Isa, Op, Simd, dispatch};

/// Approximate size of a column of a packed block of B, in bytes. Half of that would keep a panel in the
/// first-level cache, but then sums are stored to C twice as often, which costs more than loads from the
/// second level. In float32, blocks of 512 are 2 to 4 % faster than blocks of 256 with AVX-512, and as fast
/// with AVX2; in float64, the same holds for half those sizes.
const COLUMN_BYTES: usize = 2048;
/// In products deeper than that, rows of A are copied even if they are contiguous.
const DEEP: usize = 512;
/// Most elements of a packed block of A: a quarter of a 2 MB second-level cache in float32. All panels of B
/// pass by each block once.
const BLOCK_ELEMENTS: usize = 128 * 1024;
/// Row stride in bytes from which reading down a column costs a TLB entry and an associativity conflict per
/// step, so that packing pays off.
pub(crate) const LONG_STRIDE: usize = 1024;

/// Steps of a block of k: all of them, or blocks of about the same depth that begin where panels do.
fn depth<T: Element>(k: usize) -> usize {
    let most = COLUMN_BYTES / size_of::<T>();
    let blocks = (k + most / 2).saturating_sub(1) / most;
    k.div_ceil(blocks.max(1)).next_multiple_of(PANEL).clamp(1, k.max(1))
}

/// Rows and columns of the register tile that an ISA's kernel computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TileShape {
    /// Rows.
    pub mr: usize,
    /// Columns: a whole number of vectors.
    pub nr: usize,
}

impl TileShape {
    /// The tile of an ISA for an element type.
    pub fn of<T: Element>(isa: Isa) -> Self {
        struct Shape;
        impl<T: Element> Op<T> for Shape {
            type Output = TileShape;
            #[inline(always)]
            fn eval<S: Simd<T>>(self, _: S) -> TileShape {
                TileShape { mr: S::MR, nr: S::NV * S::N }
            }
        }
        dispatch::<T, _>(isa, Shape)
    }
}

/// How one product will be computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GemmPlan {
    /// The register tile.
    pub tile: TileShape,
    /// Rows of the tiles actually used: the rows of A divided evenly, since a tile with few rows at the end
    /// would take nearly as long as a full one.
    pub rows: usize,
    /// Depth of a block of k; the whole of k if nothing is packed during the product.
    pub kc: usize,
    /// Rows of a block of A: a whole number of tiles.
    pub mc: usize,
    /// Whether blocks of A are copied into panels.
    pub pack_a: bool,
    /// Whether columns of a plain or transposed B are copied.
    pub pack_b: bool,
    /// The precision. Unless it is full, panels of parts are used, and of the fields above only `rows`.
    pub precision: Precision,
    /// Whether parts are multiplied by the tile unit; otherwise in vectors.
    pub tiles: bool,
}

/// Shapes and strides of a product: all that a plan depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GemmShape {
    /// Rows of A and C.
    pub m: usize,
    /// Columns of B and C.
    pub n: usize,
    /// Columns of A, rows of B.
    pub k: usize,
    /// Elements from one row of A to the next.
    pub a_row_stride: usize,
    /// Elements from one column of A to the next.
    pub a_col_stride: usize,
    /// Elements from one row of a plain B to the next; `None` if B comes in panels.
    pub b_row_stride: Option<usize>,
}

impl GemmPlan {
    /// Makes a plan for a shape.
    pub fn choose<T: Element>(isa: Isa, shape: GemmShape) -> Self {
        let tile = TileShape::of::<T>(isa);
        let GemmShape { m, n, k, .. } = shape;
        let long = |stride: usize| stride * size_of::<T>() >= LONG_STRIDE;
        // A copy of A is used once per panel of B, a copy of B once per tile of rows: without reuse it cannot
        // pay off. Rows of A that are contiguous must be transposed, which needs more reuse to pay off.
        let a_reused = n > if shape.a_col_stride == 1 { 16 * tile.nr } else { 2 * tile.nr };
        let b_reused = m > 2 * tile.mr;
        let deep = k > DEEP;
        let pack_a = a_reused && (deep || (shape.a_col_stride != 1 && long(shape.a_col_stride)));
        let pack_b = b_reused && shape.b_row_stride.is_some_and(long);
        let kc = if pack_a { depth::<T>(k) } else { k };
        let mc = if pack_a { BLOCK_ELEMENTS / kc } else { m };
        Self::blocked(tile, (m, k), (mc, kc), pack_a, pack_b)
    }

    /// The same plan for a right operand that is [transposed](super::Rhs::Transposed) during the product.
    pub fn transposing(self) -> Self {
        GemmPlan { pack_b: true, ..self }
    }

    /// A plan for the weight gradient of a tile, whose operands have already been copied if that pays off,
    /// with register tiles that share `m` rows evenly.
    pub fn gradient<T: Element>(isa: Isa, m: usize, k: usize) -> Self {
        let plan = Self::blocked(TileShape::of::<T>(isa), (m, k), (m, depth::<T>(k)), false, false);
        // The product of a tile at the edge may have fewer rows.
        GemmPlan { mc: usize::MAX / plan.rows * plan.rows, ..plan }
    }

    /// A plan for a product of parts, of at most m × k numbers of A, which are split during the product or
    /// before; B is always split before.
    pub fn split<T: Element>(
        isa: Isa,
        precision: Precision,
        (m, k): (usize, usize),
        on_the_way: bool,
    ) -> Self {
        let plan = Self::blocked(TileShape::of::<T>(isa), (m, k), (m, k), on_the_way, false);
        let tiles = Amx::new().is_some();
        GemmPlan { rows: split::LANES, kc: split::BLOCK.min(k), mc: m, precision, tiles, ..plan }
    }

    /// A plan for an `m` × `k` matrix A in blocks of at most `mc` × `kc`.
    pub(super) fn blocked(
        tile: TileShape,
        (m, k): (usize, usize),
        (mc, kc): (usize, usize),
        pack_a: bool,
        pack_b: bool,
    ) -> Self {
        let tiles = m.div_ceil(tile.mr).max(1);
        let rows = m.div_ceil(tiles).max(1);
        let blocks = m.div_ceil(mc.max(rows)).max(1);
        let mc = tiles.div_ceil(blocks) * rows;
        let (kc, precision) = (kc.min(k).max(1), Precision::Full);
        GemmPlan { tile, rows, kc, mc, pack_a, pack_b, precision, tiles: false }
    }

    /// Elements of scratch that [`Gemm::run`](super::Gemm::run) needs with this plan.
    pub fn scratch_len(&self) -> usize {
        match self.precision {
            Precision::Full => self.a_scratch() + self.b_scratch(),
            _ if !self.pack_a => 0,
            precision => split::split_len(self.mc, self.kc, precision.parts()),
        }
    }

    pub(super) fn a_scratch(&self) -> usize {
        if self.pack_a { self.mc * self.kc } else { 0 }
    }

    pub(super) fn b_scratch(&self) -> usize {
        if self.pack_b { self.tile.nr * self.kc } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nn(m: usize, n: usize, k: usize) -> GemmShape {
        GemmShape { m, n, k, a_row_stride: k, a_col_stride: 1, b_row_stride: Some(n) }
    }

    fn choose(shape: GemmShape) -> GemmPlan {
        GemmPlan::choose::<f32>(Isa::Scalar, shape)
    }

    #[test]
    fn small_products_read_their_operands_where_they_are() {
        let plan = choose(nn(64, 64, 64));
        assert!(!plan.pack_a && !plan.pack_b);
        assert_eq!((plan.kc, plan.scratch_len()), (64, 0));
    }

    #[test]
    fn tiles_share_the_rows_evenly() {
        let tile = TileShape { mr: 14, nr: 32 };
        let rows = |m| GemmPlan::blocked(tile, (m, 9), (m, 9), false, false).rows;
        assert_eq!([0, 1, 14, 15, 64, 128].map(rows), [1, 1, 14, 8, 13, 13]);
    }

    #[test]
    fn deep_products_pack_a_in_blocks_of_k() {
        let plan = choose(nn(256, 2000, 2000));
        assert!(plan.pack_a && plan.pack_b);
        assert_eq!(plan.kc, 512);
    }

    #[test]
    fn blocks_of_k_are_of_much_the_same_depth() {
        assert_eq!([0, 1, 31, 640, 768].map(depth::<f32>), [1, 1, 31, 640, 768], "one block");
        assert_eq!([769, 1000, 1281, 4096].map(depth::<f32>), [416, 512, 448, 512], "of whole panels");
        assert_eq!([384, 385, 4096].map(depth::<f64>), [384, 224, 256]);
    }

    #[test]
    fn a_long_walk_down_columns_is_packed() {
        let weight_gradient = GemmShape { a_row_stride: 1, a_col_stride: 784, ..nn(784, 400, 128) };
        assert!(choose(weight_gradient).pack_a);
        assert!(!choose(GemmShape { a_col_stride: 64, ..weight_gradient }).pack_a);
    }

    #[test]
    fn nothing_is_packed_that_is_used_once() {
        let head = choose(nn(4096, 1, 4096));
        assert!(!head.pack_a);
        assert!(!choose(nn(1, 4096, 4096)).pack_b);
    }
}
