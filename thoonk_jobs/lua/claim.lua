-- claim: available -> claimed
-- promote: scheduled -> available
-- hold: absent, scheduled, stalled, finished -> waiting
-- park: available -> waiting
-- release: waiting -> available
-- expire: claimed -> available
-- exhaust: claimed -> stalled
-- lapse: available, scheduled, waiting, claimed -> finished
-- retract: scheduled, waiting, available, claimed, stalled -> finished
-- purge: finished -> absent
-- with: limits, lines, adjusting, retention, due
-- flags: allow-oom
-- args: lane, ticket, most, lease in ms, worker, 1 where this process was told or would wait, else nothing
-- replies: {1 where more is due, (id, record, data, the last attempt's error)*}

local lane, ticket, most, lease, worker = ARGV[3], ARGV[4], math.min(500, tonumber(ARGV[5])), tonumber(ARGV[6]), ARGV[7]
local TICKETS_KEPT = 600000

-- The claims that this ticket got before and that are still valid; none for a new ticket.
local function replay()
  local value = redis.call('HGET', K.tickets, lane) or redis.call('HGET', K.tickets_before, lane)
  if not value then return {} end
  local last, at = struct.unpack('>Hc0', value)
  if last ~= ticket then return {} end
  local ids, tokens = {}, {}
  while at <= #value do
    local id, token
    id, token, at = struct.unpack('>Hc0d', value, at)
    ids[#ids + 1], tokens[id] = id, token
  end
  T.load(ids)
  local valid = {}
  for _, id in ipairs(ids) do
    local job = T.jobs[id]
    if job and job[STATE] == CLAIMED and job[TOKEN] == tokens[id] then valid[#valid + 1] = id end
  end
  return valid
end

local function remember(ids)
  local parts = {T.frame(ticket)}
  for _, id in ipairs(ids) do parts[#parts + 1] = struct.pack('>Hc0d', #id, id, T.jobs[id][TOKEN]) end
  if not T.tickets_at or math.abs(T.now - T.tickets_at) > TICKETS_KEPT then
    redis.call('UNLINK', K.tickets_before)
    if redis.call('EXISTS', K.tickets) == 1 then redis.call('RENAME', K.tickets, K.tickets_before) end
    redis.call('HSET', K.meta, 'tickets_at', T.now)
  end
  redis.call('HSET', K.tickets, lane, table.concat(parts))
end

-- How many jobs of a key are claimed, '' being the whole queue; counted once, then kept by may_run.
local running = {}
local function claimed(key)
  if not running[key] then
    local prefix = T.frame(key) .. 'c'
    running[key] = key == '' and redis.call('ZCARD', K.claimed)
      or redis.call('ZLEXCOUNT', K.keyed, '[' .. prefix, '(' .. prefix .. '\255')
  end
  return running[key]
end

local function most_running(key) return T.limits_of(key)[LIMIT_RUNNING] end

-- Where a limit was lowered, more may be available than may run, until the rest is parked.
local function may_run(job)
  local key = job[KEY]
  if claimed('') >= most_running('') or key ~= '' and claimed(key) >= most_running(key) then return false end
  running[''] = claimed('') + 1
  if key ~= '' then running[key] = claimed(key) + 1 end
  return true
end

local function candidates()
  local ids, members = {}, redis.call('ZRANGE', K.available, 0, (T.behind and 500 or most) - 1)
  for at, member in ipairs(members) do members[at] = string.sub(member, 9) end
  T.load(members)
  if not T.behind then return members end
  for _, id in ipairs(members) do
    if #ids < most and may_run(T.jobs[id]) then ids[#ids + 1] = id end
  end
  return ids
end

local function take()
  if T.paused or most < 1 then return {} end
  local ids = candidates()
  for _, id in ipairs(ids) do
    local job = T.jobs[id]
    T.move(id, 'claim')
    job[RAN], job[TOKEN], job[UNTIL] = 1, T.draw_token(), T.now + lease
    job[CLAIMED_AT], job[WORKER] = T.wall, worker
    T.bump(job, CLAIMS)
  end
  T.commit()
  if #ids > 0 then remember(ids) end
  return ids
end

local function handed_out(more, ids)
  local reply = {more and 1 or 0}
  local data = #ids > 0 and redis.call('HMGET', K.payload, unpack(ids)) or {}
  for at, id in ipairs(ids) do
    local job = T.jobs[id]
    reply[4 * at - 2], reply[4 * at - 1], reply[4 * at] = id, T.packed[id] or T.pack(job), data[at]
    reply[4 * at + 1] = job[TOTAL_FAILURES] > 0 and redis.call('HGET', K.result, id)
  end
  return reply
end

if ARGV[8] == '1' then T.untell(T.caller) end
local ids, more = replay(), false
local looked = #ids == 0
if looked then
  more = T.alarm <= T.now and T.settle()
  ids = take()
end
T.back = math.max(0, T.back - #ids)
T.short = looked and #ids < most
if T.short then T.stir = false end -- what is left may not run: nobody is to look for it in vain
return handed_out(more, ids)
