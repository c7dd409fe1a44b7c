-- claim: available -> claimed
-- promote: scheduled -> available
-- hold: absent, scheduled, stalled, finished -> waiting
-- release: waiting -> available
-- expire: claimed -> available
-- exhaust: claimed -> stalled
-- lapse: available, scheduled, waiting, claimed -> finished
-- retract: scheduled, waiting, available, claimed, stalled -> finished
-- purge: finished -> absent
-- with: limits, retention, due
-- flags: allow-oom
-- args: lane, ticket, most, lease in ms, worker, wait (1: register this process if there were fewer)
-- replies: {more is due, ms until something is due or -1, (id, record, data)*}

local lane, ticket, most, lease, worker = ARGV[3], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7]
local TICKETS_KEPT = 600000

-- The claims that this ticket got before and that are still valid; nil for a new ticket.
local function replay()
  local value = redis.call('HGET', K.tickets, lane) or redis.call('HGET', K.tickets_before, lane)
  if not value then return nil end
  local last, at = struct.unpack('>Hc0', value)
  if last ~= ticket then return nil end
  local ids, tokens = {}, {}
  while at <= #value do
    local id, token
    id, token, at = struct.unpack('>Hc0d', value, at)
    ids[#ids + 1], tokens[id] = id, token
  end
  load(ids)
  local valid = {}
  for _, id in ipairs(ids) do
    local job = JOBS[id]
    if job and job[STATE] == CLAIMED and job[TOKEN] == tokens[id] then valid[#valid + 1] = id end
  end
  return valid
end

local function remember(ids)
  local parts = {frame(ticket)}
  for _, id in ipairs(ids) do parts[#parts + 1] = frame(id) .. struct.pack('>d', JOBS[id][TOKEN]) end
  local since = tonumber(redis.call('HGET', K.tickets, '') or nil)
  if since and math.abs(NOW - since) > TICKETS_KEPT then
    redis.call('UNLINK', K.tickets_before)
    redis.call('RENAME', K.tickets, K.tickets_before)
  end
  redis.call('HSETNX', K.tickets, '', string.format('%.0f', NOW))
  redis.call('HSET', K.tickets, lane, table.concat(parts))
end

local function take()
  local ids = {}
  if PAUSED or most < 1 then return ids end
  for _, member in ipairs(redis.call('ZRANGE', K.available, 0, most - 1)) do ids[#ids + 1] = string.sub(member, 9) end
  load(ids)
  for _, id in ipairs(ids) do
    local job = JOBS[id]
    move(id, 'claim')
    job[RAN], job[TOKEN], job[UNTIL] = 1, draw_token(), NOW + lease
    job[CLAIMED_AT], job[WORKER] = WALL, worker
    bump(job, CLAIMS)
  end
  commit()
  if #ids > 0 then remember(ids) end
  return ids
end

local more, wait, ids = false, -1, replay()
if not ids then
  more = settle()
  ids = take()
  if #ids < most then
    wait = next_due()
    if ARGV[8] == '1' then redis.call('ZADD', K.waiters, 'NX', string.format('%.0f', MICROS), CALLER) end
  end
end
local answer = {more and 1 or 0, wait}
local data = #ids > 0 and redis.call('HMGET', K.payload, unpack(ids)) or {}
for at, id in ipairs(ids) do
  answer[3 * at], answer[3 * at + 1], answer[3 * at + 2] = id, pack(JOBS[id]), data[at]
end
return answer
