//! The macro that spells a shared struct to the byte, and the proofs that hold it there.

/// Name, offset and size of one field, in bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Field {
    /// The field's name as in the source.
    pub name: &'static str,
    /// Offset from the start of the struct, in bytes.
    pub offset: usize,
    /// Size in bytes.
    pub size: usize,
}

/// A type without padding, without invalid bit patterns and without a meaning
/// that depends on the target: what may be a field of a shared struct.
pub trait Plain: Copy {}

impl Plain for u8 {}
impl Plain for u16 {}
impl Plain for u32 {}
impl Plain for u64 {}
impl<T: Plain, const N: usize> Plain for [T; N] {}
impl Plain for crate::Be16 {}
impl Plain for crate::Be32 {}
impl Plain for crate::Address {}
impl Plain for crate::FlowTuple {}

/// Compiles only for a [`Plain`] type.
pub const fn assert_plain<T: Plain>() {}

/// Declares a struct that both sides of the border share.
///
/// Size, alignment and every offset are written by hand and checked at compile
/// time on both targets, as is that the fields fill the struct: padding is a
/// field named `reserved`, zero, or hash keys would compare unequal.
macro_rules! abi_struct {
    ($(#[$meta:meta])* pub struct $name:ident: $size:literal, align $align:literal {
        $( $(#[$fmeta:meta])* pub $field:ident: $ty:ty = $offset:literal, )+
    }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
        #[repr(C)]
        pub struct $name { $( $(#[$fmeta])* pub $field: $ty, )+ }

        impl $name {
            /// Name, offset and size of every field, for the snapshot and the BTF check.
            pub const LAYOUT: &'static [$crate::layout::Field] = &[ $( $crate::layout::Field {
                name: stringify!($field),
                offset: core::mem::offset_of!($name, $field),
                size: size_of::<$ty>(),
            }, )+ ];
        }

        const _: () = {
            assert!(size_of::<$name>() == $size, "size changed");
            assert!(align_of::<$name>() == $align, "alignment changed");
            $( assert!(core::mem::offset_of!($name, $field) == $offset, "field moved"); )+
            assert!(0 $( + size_of::<$ty>() )+ == $size, "implicit padding");
            $( $crate::layout::assert_plain::<$ty>(); )+
        };
    };
}
pub(crate) use abi_struct;
