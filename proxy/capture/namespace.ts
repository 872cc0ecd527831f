import type dgram from 'node:dgram';
export type Namespace = {
  socket(family: 4 | 6): number;
  has(cookie: bigint | undefined): boolean;
  add(cookie: bigint | undefined): void;
  endpoints: dgram.Socket[];
  close(): void;
};
