"""rl/random.hpp's stream of index 0 and purpose environment, for references that are to draw what Myriad draws."""


class RandomStream:
    def __init__(self, seed):
        self.seed, self.position, self.block = seed, 0, []

    def philox4x32(self, block):
        mask = 0xFFFFFFFF
        c, k = [block & mask, block >> 32, 0, 1], [self.seed & mask, self.seed >> 32]  # index 0, StreamPurpose::environment
        for _ in range(10):
            a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
            c = [(b >> 32) ^ c[1] ^ k[0], b & mask, (a >> 32) ^ c[3] ^ k[1], a & mask]
            k = [(k[0] + 0x9E3779B9) & mask, (k[1] + 0xBB67AE85) & mask]
        return c

    def next_u64(self):
        if self.position % 2 == 0:
            self.block = self.philox4x32(self.position // 2)
        half = self.position % 2
        self.position += 1
        return self.block[2 * half + 1] << 32 | self.block[2 * half]

    def random(self):
        """Uniform in [0, 1)."""
        return (self.next_u64() >> 11) * 2.0**-53

    def below(self, n):
        return self.next_u64() * n >> 64
