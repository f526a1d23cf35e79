//! The one place that tells aya which types may be copied as bytes.

#![expect(unsafe_code, reason = "aya::Pod is an unsafe trait")]

macro_rules! pod {
    ($($name:ident),+ $(,)?) => { $(
        // SAFETY: the type is `repr(C)` or `repr(transparent)`, its layout assertions leave no
        // padding, and its fields are plain: any bit pattern is a value.
        unsafe impl aya::Pod for crate::$name {}
    )+ };
}

pod!(
    Address,
    Config,
    Counter,
    FlowTuple,
    Mapping,
    LocalPod,
    Pending,
    Permit,
    RouteKey,
    RoutePrefix,
    Stranger,
    VethFlags,
    Vtep,
    VtepCounter,
    VtepState,
);
