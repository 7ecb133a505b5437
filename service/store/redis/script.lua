-- All that is written is written here: a call of one function below is one transaction. ARGV: its name, and its
-- arguments in MessagePack. Keys, after the prefix, where L is `jobs` or `keys` (answers by Idempotency-Key):
--
--   L:entry:ID    hash   client, owner, size, ended: what the sums below are made of, so it never expires by itself
--   L:data:ID     hash   what clients read; expires by itself if no process is left to remove it
--   L:open        set    open ids; L:open:OWNER those of a process; L:opened: number by client
--   L:ended       zset   ended ids in the order of their ends; L:ended:CLIENT those of a client; L:enders those clients
--   L:number, L:bytes, L:total   what clients hold, and all together
--   events:ID     stream, transient:ID list of "event:bytes", both of a job
--   of:CLIENT     zset   a client's jobs by the time of creation
--   waiting, suspects, gone   ids of jobs: interrupted ones; owned ones that were in crashes; removed ones
--   owners, lease:OWNER       processes; one whose lease expires is dead
--   changes       stream of ids of changed jobs
local PREFIX = '{genserve-1}:'
-- Seconds for which what clients read outlives its time: the ledger must be the first to forget it.
local MARGIN_S = 60
local call = redis.call

local function k(...)
  return PREFIX .. table.concat({...}, ':')
end

local function num(value)
  return tonumber(value) or 0
end

local function pairs_of(key)
  local flat, found = call('HGETALL', key), {}
  for i = 1, #flat, 2 do found[flat[i]] = num(flat[i + 1]) end
  return found
end

-- Bounds -----------------------------------------------------------------------------------------------------------

local function limits(bounds)
  return {most = bounds[1], bytes = bounds[2], keep_s = bounds[3], of_client = bounds[4]}
end

local function count(key, client, change)
  if call('HINCRBY', key, client, change) == 0 then call('HDEL', key, client) end
end

local function hold(l, client, number, bytes)
  count(k(l, 'number'), client, number)
  count(k(l, 'bytes'), client, bytes)
  call('HINCRBY', k(l, 'total'), 'number', number)
  call('HINCRBY', k(l, 'total'), 'bytes', bytes)
end

local function fits(l, b, number, bytes)
  local total = call('HMGET', k(l, 'total'), 'number', 'bytes')
  return num(total[1]) + number <= b.most and num(total[2]) + bytes <= b.bytes
end

local function part(b, number, bytes)
  return math.max(number / b.most, bytes / b.bytes)
end

-- The client with ended entries that holds most, and its part of the bounds.
local function largest(l, b)
  local number, bytes, found, most = pairs_of(k(l, 'number')), pairs_of(k(l, 'bytes')), nil, -1
  for _, client in ipairs(call('SMEMBERS', k(l, 'enders'))) do
    local own = part(b, number[client] or 0, bytes[client] or 0)
    if own > most or (own == most and client > found) then found, most = client, own end
  end
  return found, most
end

-- Whether one more entry of a client that has no ended one needs the room of a client that holds less.
local function takes_from_less(l, client, size, b)
  if fits(l, b, 1, size) or call('SISMEMBER', k(l, 'enders'), client) == 1 then return false end
  local _, most = largest(l, b)
  local number, bytes = call('HGET', k(l, 'number'), client), call('HGET', k(l, 'bytes'), client)
  return most >= 0 and part(b, num(number) + 1, num(bytes) + size) > most
end

local function open(l, id, client, owner)
  call('SADD', k(l, 'open'), id)
  call('SADD', k(l, 'open', owner), id)
  count(k(l, 'opened'), client, 1)
end

local function close(l, id, client, owner)
  call('SREM', k(l, 'open'), id)
  call('SREM', k(l, 'open', owner), id)
  count(k(l, 'opened'), client, -1)
end

-- Ends an entry: it is kept for a while from now on.
local function append(l, id, client, owner, now, b)
  local number = call('INCR', k(l, 'last'))
  call('HSET', k(l, 'entry', id), 'ended', now)
  call('ZADD', k(l, 'ended'), number, id)
  call('ZADD', k(l, 'ended', client), number, id)
  call('SADD', k(l, 'enders'), client)
  call('SADD', k(l, 'ended-by', owner), id)
  call('EXPIRE', k(l, 'data', id), math.ceil(b.keep_s + MARGIN_S))
end

-- Removes an entry. Returns whether there was one.
local function drop(l, id)
  local client, owner, size, ended = unpack(call('HMGET', k(l, 'entry', id), 'client', 'owner', 'size', 'ended'))
  if not client then return false end
  if ended then
    call('ZREM', k(l, 'ended'), id)
    call('ZREM', k(l, 'ended', client), id)
    call('SREM', k(l, 'ended-by', owner), id)
    if call('EXISTS', k(l, 'ended', client)) == 0 then call('SREM', k(l, 'enders'), client) end
  else
    close(l, id, client, owner)
  end
  if size then hold(l, client, -1, 0 - num(size)) end
  call('DEL', k(l, 'entry', id), k(l, 'data', id))
  return true, client
end

local function trim_expired(l, now, b, remove)
  while true do
    local id = call('ZRANGE', k(l, 'ended'), 0, 0)[1]
    if not id or num(call('HGET', k(l, 'entry', id), 'ended')) + b.keep_s > now then return end
    remove(id)
  end
end

local function trim(l, now, b, remove)
  trim_expired(l, now, b, remove)
  while not fits(l, b, 0, 0) do
    local client = largest(l, b)
    if not client then return end
    remove(call('ZRANGE', k(l, 'ended', client), 0, 0)[1])
  end
end

-- Jobs -------------------------------------------------------------------------------------------------------------

local function changed(id)
  call('XADD', k('changes'), 'MAXLEN', '~', 1024, '*', 'id', id)
end

local function drop_recipe(id)
  call('HINCRBY', k('jobs', 'total'), 'recipes', 0 - num(call('HGET', k('jobs', 'entry', id), 'recipe_size')))
  call('HDEL', k('jobs', 'entry', id), 'recipe_size')
  call('HDEL', k('jobs', 'data', id), 'recipe')
  call('SREM', k('waiting'), id)
  call('SREM', k('suspects'), id)
end

local function discard(id)
  drop_recipe(id)
  local found, client = drop('jobs', id)
  if not found then return false end
  call('ZREM', k('of', client), id)
  call('DEL', k('events', id), k('transient', id))
  changed(id)
  return true
end

local function remove(id, gone)
  if not discard(id) then return end
  call('ZADD', k('gone'), call('INCR', k('gone', 'last')), id)
end

local function forget_oldest(most)
  call('ZREMRANGEBYRANK', k('gone'), 0, -(most + 1))
end

local function add_event(id, event)
  local number, name, transient, data = unpack(event)
  call('XADD', k('events', id), number .. '-0', 'name', name, 'transient', transient and 1 or 0, 'data', data)
  if transient then call('RPUSH', k('transient', id), number .. ':' .. #data) end
  return #data
end

-- Removes transient events before `first`. Returns their bytes.
local function drop_events(id, first)
  local bytes = 0
  while true do
    local number, size = string.match(call('LINDEX', k('transient', id), 0) or '', '(%d+):(%d+)')
    if not number or num(number) >= first then return bytes end
    call('LPOP', k('transient', id))
    bytes = bytes + num(size) * call('XDEL', k('events', id), number .. '-0')
  end
end

-- `owner` nil: of any.
local function tell(owner, news, now, b)
  local id, state, progress, last, size, about, events, first, ended, result, failure = unpack(news, 1, 11)
  local entry = k('jobs', 'entry', id)
  local client, of, known, had, bytes, over =
    unpack(call('HMGET', entry, 'client', 'owner', 'last', 'size', 'event_bytes', 'ended'))
  if not client or over or (owner and of ~= owner) then return false end
  bytes, known = num(bytes), num(known)
  for _, event in ipairs(events) do -- one that is known is sent again because the answer was lost
    if event[1] > known then bytes = bytes + add_event(id, event) end
  end
  bytes = bytes - drop_events(id, first)
  size = (size or num(had) - num(call('HGET', entry, 'event_bytes'))) + bytes + (result and #result or 0)
  hold('jobs', client, 0, size - num(had))
  call('HSET', entry, 'last', last, 'size', size, 'event_bytes', bytes)
  call('HSET', k('jobs', 'data', id), 'state', state, 'progress', progress, 'about', about)
  if ended then
    if result then call('HSET', k('jobs', 'data', id), 'result', result) end
    if failure then call('HSET', k('jobs', 'data', id), 'error', failure) end
    drop_recipe(id)
    close('jobs', id, client, of)
    append('jobs', id, client, of, now, b)
    for _, key in ipairs({'events', 'transient'}) do call('EXPIRE', k(key, id), math.ceil(b.keep_s + MARGIN_S)) end
  end
  changed(id)
  return true
end

local function touch(owner, lease_ms)
  call('SADD', k('owners'), owner)
  call('SET', k('lease', owner), 1, 'PX', lease_ms)
end

-- Gives back what an owner has open; what ended with it belongs to nobody.
local function free(owner, crashes, skipped)
  for _, id in ipairs(call('SMEMBERS', k('jobs', 'open', owner))) do
    local entry = k('jobs', 'entry', id)
    call('HSET', entry, 'owner', '')
    call('HINCRBY', entry, 'crashes', crashes)
    call('HINCRBY', entry, 'last', skipped)
    call('SMOVE', k('jobs', 'open', owner), k('jobs', 'open', ''), id)
    call('SADD', k('waiting'), id)
    call('SREM', k('suspects'), id)
  end
  for _, id in ipairs(call('SMEMBERS', k('keys', 'open', owner))) do drop('keys', id) end
  for _, l in ipairs({'jobs', 'keys'}) do
    for _, id in ipairs(call('SMEMBERS', k(l, 'ended-by', owner))) do
      call('HSET', k(l, 'entry', id), 'owner', '')
      call('SMOVE', k(l, 'ended-by', owner), k(l, 'ended-by', ''), id)
    end
  end
  call('SREM', k('owners'), owner)
  call('DEL', k('lease', owner))
end

local function adopt(owner)
  for _, id in ipairs(call('SMEMBERS', k('jobs', 'ended-by', ''))) do
    call('HSET', k('jobs', 'entry', id), 'owner', owner)
    call('SMOVE', k('jobs', 'ended-by', ''), k('jobs', 'ended-by', owner), id)
  end
end

local function bury(skipped)
  local dead = {}
  for _, owner in ipairs(call('SMEMBERS', k('owners'))) do
    if call('EXISTS', k('lease', owner)) == 0 then
      free(owner, 1, skipped)
      dead[#dead + 1] = owner
    end
  end
  return dead
end

-- Jobs of fewer crashes come first, then older ones.
local function next_waiting(full, suspect)
  local skip, found, best = {}, nil, nil
  for _, model in ipairs(full) do skip[model] = true end
  local suspected = call('SCARD', k('suspects')) > 0
  for _, id in ipairs(call('SMEMBERS', k('waiting'))) do
    local model, crashes, created = unpack(call('HMGET', k('jobs', 'entry', id), 'model', 'crashes', 'created'))
    crashes, created = num(crashes), num(created)
    local before = not best or crashes < best[1] or (crashes == best[1] and created < best[2])
    if before and not skip[model] and not (suspected and crashes >= suspect) then
      found, best = id, {crashes, created}
    end
  end
  return found
end

local function row(id)
  local entry = call('HMGET', k('jobs', 'entry', id), 'client', 'created', 'last', 'ended')
  local data = call('HMGET', k('jobs', 'data', id), 'state', 'progress', 'about', 'error')
  if not entry[1] or not data[1] then return false end
  return {id, entry[1], entry[2], entry[3], entry[4], data[1], data[2], data[3], data[4]}
end

-- `found`, `gone` or `unknown`.
local function known(id, now, keep_s)
  local client, ended = unpack(call('HMGET', k('jobs', 'entry', id), 'client', 'ended'))
  if client and (not ended or now < num(ended) + keep_s) then return 'found' end
  return (client or call('ZSCORE', k('gone'), id)) and 'gone' or 'unknown'
end

local calls = {}

function calls.add(owner, lease_ms, id, client, model, created, state, progress, size, about, recipe, now, bounds, most)
  local b, held = limits(bounds), num(call('HGET', k('jobs', 'total'), 'recipes'))
  local own = num(call('HGET', k('jobs', 'opened'), client))
  if call('SCARD', k('jobs', 'open')) >= b.most then return {'jobs-full', b.most} end
  if own >= b.of_client then return {'client-full', own} end
  if held + #recipe > most then return {'memory', held} end
  trim_expired('jobs', now, b, remove)
  if takes_from_less('jobs', client, size, b) then return {'client-full', own} end
  touch(owner, lease_ms)
  call('HSET', k('jobs', 'entry', id), 'client', client, 'owner', owner, 'size', size, 'model', model,
    'created', created, 'last', 0, 'crashes', 0, 'recipe_size', #recipe)
  call('HSET', k('jobs', 'data', id), 'state', state, 'progress', progress, 'about', about, 'recipe', recipe)
  call('HINCRBY', k('jobs', 'total'), 'recipes', #recipe)
  call('ZADD', k('of', client), created, id)
  open('jobs', id, client, owner)
  hold('jobs', client, 1, size)
  trim('jobs', now, b, remove)
  forget_oldest(bounds[5])
  return {'added'}
end

function calls.tell(owner, all_news, now, bounds)
  local lost, b = {}, limits(bounds)
  for _, news in ipairs(all_news) do
    if not tell(owner, news, now, b) then lost[#lost + 1] = news[1] end
  end
  trim('jobs', now, b, remove)
  forget_oldest(bounds[5])
  return lost
end

-- `name` 'end' is a word of the language.
function calls.finish(id, state, progress, about, failure, data, now, bounds)
  local b, entry = limits(bounds), k('jobs', 'entry', id)
  local last = num(call('HGET', entry, 'last')) + 1
  tell(nil, {id, state, progress, last, false, about, {{last, 'error', false, data}}, 0, true, false, failure}, now, b)
  trim('jobs', now, b, remove)
  forget_oldest(bounds[5])
end

function calls.find(id, now, keep_s)
  local what = known(id, now, keep_s)
  if what ~= 'found' then return {what} end
  local found = row(id)
  return found and {what, found} or {'gone'}
end

function calls.of_client(client, most, expired)
  local found = {}
  for _, id in ipairs(call('ZREVRANGE', k('of', client), 0, -1)) do
    if #found == most then break end
    local ended = call('HGET', k('jobs', 'entry', id), 'ended')
    local each = (not ended or num(ended) > expired) and row(id)
    if each then found[#found + 1] = each end
  end
  return found
end

function calls.next_event(id, after)
  local last, ended = unpack(call('HMGET', k('jobs', 'entry', id), 'last', 'ended'))
  if not last then return false end
  local found = call('XRANGE', k('events', id), '(' .. after .. '-0', '+', 'COUNT', 1)[1]
  if not found then return {ended and 1 or 0, last} end
  local fields = found[2]
  return {ended and 1 or 0, last, string.match(found[1], '%d+'), fields[2], fields[4], fields[6]}
end

function calls.result_of(id)
  local result, last = call('HGET', k('jobs', 'data', id), 'result'), call('HGET', k('jobs', 'entry', id), 'last')
  local event = result and last and call('XRANGE', k('events', id), last .. '-0', last .. '-0')[1]
  return event and {result, event[2][6]}
end

function calls.remove(id, now, bounds)
  local what = known(id, now, bounds[3])
  if what == 'found' then remove(id) end
  forget_oldest(bounds[5])
  return {what}
end

function calls.discard(id)
  discard(id)
end

function calls.renew(owner, lease_ms)
  touch(owner, lease_ms)
  adopt(owner)
  return call('SMEMBERS', k('jobs', 'open', owner))
end

function calls.maintain(owner, lease_ms, now, bounds)
  touch(owner, lease_ms)
  adopt(owner)
  trim('jobs', now, limits(bounds), remove)
  forget_oldest(bounds[5])
  return call('SCARD', k('jobs', 'ended-by', owner))
end

function calls.leave(owner, skipped)
  free(owner, 0, skipped)
end

function calls.claim(owner, lease_ms, full, suspect, patient, progress, skipped)
  touch(owner, lease_ms)
  local dead = patient and bury(skipped) or {}
  local id = next_waiting(full, suspect)
  if not id then return {dead} end
  local entry, data = k('jobs', 'entry', id), k('jobs', 'data', id)
  local client, model, created, last, crashes, size, bytes =
    unpack(call('HMGET', entry, 'client', 'model', 'created', 'last', 'crashes', 'size', 'event_bytes'))
  hold('jobs', client, 0, 0 - num(bytes))
  call('HSET', entry, 'owner', owner, 'size', num(size) - num(bytes), 'event_bytes', 0)
  call('HSET', data, 'state', 'queued', 'progress', progress)
  call('DEL', k('events', id), k('transient', id))
  call('SREM', k('waiting'), id)
  call('SMOVE', k('jobs', 'open', ''), k('jobs', 'open', owner), id)
  if num(crashes) >= suspect then call('SADD', k('suspects'), id) end
  changed(id)
  return {dead, {id, client, model, created, call('HGET', data, 'recipe'), last, crashes}}
end

function calls.unclaim(owner, id)
  local of, ended = unpack(call('HMGET', k('jobs', 'entry', id), 'owner', 'ended'))
  if of ~= owner or ended then return end
  call('HSET', k('jobs', 'entry', id), 'owner', '')
  call('SMOVE', k('jobs', 'open', owner), k('jobs', 'open', ''), id)
  call('SREM', k('suspects'), id)
  call('SADD', k('waiting'), id)
end

-- Answers by Idempotency-Key: only kept ones count in the bounds of bytes and number. ----------------------------------

local function drop_key(id)
  drop('keys', id)
end

function calls.claim_key(owner, lease_ms, id, client, fingerprint, now, bounds)
  local b = limits(bounds)
  trim('keys', now, b, drop_key)
  local known, ended = unpack(call('HMGET', k('keys', 'entry', id), 'fingerprint', 'ended'))
  local status, headers, body = unpack(call('HMGET', k('keys', 'data', id), 'status', 'headers', 'body'))
  if known and known ~= fingerprint then return {'reused'} end
  if ended and status then return {'kept', status, headers, body} end
  if ended then drop_key(id) elseif known then return {'in-use'} end
  local own = num(call('HGET', k('keys', 'opened'), client))
  if call('SCARD', k('keys', 'open')) >= b.most or own >= b.of_client then return {'in-use'} end
  touch(owner, lease_ms)
  call('HSET', k('keys', 'entry', id), 'client', client, 'owner', owner, 'fingerprint', fingerprint)
  open('keys', id, client, owner)
  return {'claimed'}
end

function calls.keep_key(owner, id, status, headers, body, size, now, bounds)
  local b, entry = limits(bounds), k('keys', 'entry', id)
  local client, of, ended = unpack(call('HMGET', entry, 'client', 'owner', 'ended'))
  if of ~= owner or ended then return end
  call('HSET', k('keys', 'data', id), 'status', status, 'headers', headers, 'body', body)
  call('HSET', entry, 'size', size)
  close('keys', id, client, owner)
  hold('keys', client, 1, size)
  append('keys', id, client, owner, now, b)
  trim('keys', now, b, drop_key)
end

function calls.release_key(owner, id)
  local of, ended = unpack(call('HMGET', k('keys', 'entry', id), 'owner', 'ended'))
  if of == owner and not ended then drop_key(id) end
end

return calls[ARGV[1]](unpack(cmsgpack.unpack(ARGV[2])))
