"""Which files are those that the owners of the benchmarks publish.

A file of one's own may have a benchmark's layout, but not its licence. These are the
first digits of the SHA-256 of the owners' files.
"""

DIGITS = 16
PUBLISHED = {
    "gsm8k": ("3730d312f6e34405 17f347dc51477c50 "),
    "multiarith": ("dc9db1b6cc68b1ec "),
    "asdiv": ("ef8904068482919a "),
    "svamp": ("5be77703a6d891ae "),
    "bbh": (
        "ea6c754ec005e2d3 6e8bca44dd402008 0148d4ac5fca05b2 cf06df9ebf911b88 "
        "3f9badedf15c2be1 4c1adb664821157f 07be68a124420caa b6d7f55c75f5d02f "
        "d2df31394b903b7f 2896c7e3482eea31 e590fae72e3a6041 a8b53a87ee21a865 "
        "c9d5a6433c9b7825 b7944dfd3c81da5c 8acef14dbbdd40d2 bb87ee449698eee5 "
        "0a8850cf95166020 b6f723aef2bafdd4 becf3eb8dd53c821 54a0661fe2de0616 "
        "63ca262858f61768 92a1189faaa84aac 2063a46a4fb48423 b59fd05b850c37cf "
        "546cc7bf10c6a01a 3e60323f8514a107 2a6132d2c99f00d0 "
    ),
}
