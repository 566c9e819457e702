//! Keccak-f\[1600\] on one state (FIPS 202, section 3).

/// Round constants of the iota step (FIPS 202, section 3.2.5).
pub(super) const ROUND_CONSTANTS: [u64; 24] = [
    0x0000_0000_0000_0001,
    0x0000_0000_0000_8082,
    0x8000_0000_0000_808a,
    0x8000_0000_8000_8000,
    0x0000_0000_0000_808b,
    0x0000_0000_8000_0001,
    0x8000_0000_8000_8081,
    0x8000_0000_0000_8009,
    0x0000_0000_0000_008a,
    0x0000_0000_0000_0088,
    0x0000_0000_8000_8009,
    0x0000_0000_8000_000a,
    0x0000_0000_8000_808b,
    0x8000_0000_0000_008b,
    0x8000_0000_0000_8089,
    0x8000_0000_0000_8003,
    0x8000_0000_0000_8002,
    0x8000_0000_0000_0080,
    0x0000_0000_0000_800a,
    0x8000_0000_8000_000a,
    0x8000_0000_8000_8081,
    0x8000_0000_0000_8080,
    0x0000_0000_8000_0001,
    0x8000_0000_8000_8008,
];

/// Applies the permutation. `state[x + 5 * y]` is lane (x, y).
pub fn keccak_f1600(state: &mut [u64; 25]) {
    let mut a = *state;
    for constant in ROUND_CONSTANTS {
        // Theta: parities of the columns, and what each column is XORed with.
        let c: [u64; 5] =
            std::array::from_fn(|x| a[x] ^ a[x + 5] ^ a[x + 10] ^ a[x + 15] ^ a[x + 20]);
        let d = [
            c[4] ^ c[1].rotate_left(1),
            c[0] ^ c[2].rotate_left(1),
            c[1] ^ c[3].rotate_left(1),
            c[2] ^ c[4].rotate_left(1),
            c[3] ^ c[0].rotate_left(1),
        ];

        // Rho and pi: one output row at a time, so that chi can follow at once.
        let row0 = [
            a[0] ^ d[0],
            (a[6] ^ d[1]).rotate_left(44),
            (a[12] ^ d[2]).rotate_left(43),
            (a[18] ^ d[3]).rotate_left(21),
            (a[24] ^ d[4]).rotate_left(14),
        ];
        let row1 = [
            (a[3] ^ d[3]).rotate_left(28),
            (a[9] ^ d[4]).rotate_left(20),
            (a[10] ^ d[0]).rotate_left(3),
            (a[16] ^ d[1]).rotate_left(45),
            (a[22] ^ d[2]).rotate_left(61),
        ];
        let row2 = [
            (a[1] ^ d[1]).rotate_left(1),
            (a[7] ^ d[2]).rotate_left(6),
            (a[13] ^ d[3]).rotate_left(25),
            (a[19] ^ d[4]).rotate_left(8),
            (a[20] ^ d[0]).rotate_left(18),
        ];
        let row3 = [
            (a[4] ^ d[4]).rotate_left(27),
            (a[5] ^ d[0]).rotate_left(36),
            (a[11] ^ d[1]).rotate_left(10),
            (a[17] ^ d[2]).rotate_left(15),
            (a[23] ^ d[3]).rotate_left(56),
        ];
        let row4 = [
            (a[2] ^ d[2]).rotate_left(62),
            (a[8] ^ d[3]).rotate_left(55),
            (a[14] ^ d[4]).rotate_left(39),
            (a[15] ^ d[0]).rotate_left(41),
            (a[21] ^ d[1]).rotate_left(2),
        ];

        // Chi on each row, iota on lane (0, 0).
        a[0..5].copy_from_slice(&chi(row0));
        a[5..10].copy_from_slice(&chi(row1));
        a[10..15].copy_from_slice(&chi(row2));
        a[15..20].copy_from_slice(&chi(row3));
        a[20..25].copy_from_slice(&chi(row4));
        a[0] ^= constant;
    }
    *state = a;
}

#[inline(always)]
fn chi(b: [u64; 5]) -> [u64; 5] {
    [
        b[0] ^ (!b[1] & b[2]),
        b[1] ^ (!b[2] & b[3]),
        b[2] ^ (!b[3] & b[4]),
        b[3] ^ (!b[4] & b[0]),
        b[4] ^ (!b[0] & b[1]),
    ]
}
