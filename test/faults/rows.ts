import { clusterRows } from './cluster-rows.ts';
import { laptopRows } from './laptop-rows.ts';
import { peopleRows } from './people-rows.ts';
import { podRows } from './pod-rows.ts';
import { stepRows } from './step-rows.ts';
import type { Row } from './table.ts';
import type { Times } from './times.ts';

/** The whole table; what takes longest first. */
export function rowsOf(times: Times): Row[] {
  return [...laptopRows(times), ...podRows(times), ...stepRows(), ...peopleRows(), ...clusterRows()];
}
