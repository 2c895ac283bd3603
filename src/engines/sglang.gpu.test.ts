import { describeOnGpu } from '../../test/gpu/stories.ts';
import { gpuBytesOf } from '../config/nvidia.ts';
import { membersOf } from './memory.ts';
import { createSglangEngine } from './sglang.ts';

describeOnGpu('sglang', 'BERTH_SGLANG', () =>
  createSglangEngine({ deviceBytes: (group) => gpuBytesOf(membersOf(group)) }),
);
