//! What JSON of money looks like, for the description alone: it is made where the values are (`view` and its like in the
//! modules beside this), and `tests/it/money/described.rs` has real answers checked against this. Every field is in every
//! answer; what is not known, or not theirs to know, is null.

#![expect(dead_code, reason = "descriptions of JSON that is made elsewhere")]

use std::collections::BTreeMap;

use utoipa::ToSchema;

/// In UTC, as in RFC 3339.
#[derive(ToSchema)]
#[schema(as = Time, format = DateTime)]
pub(super) struct Time(String);

/// An order's id.
#[derive(ToSchema)]
#[schema(as = OrderId, pattern = "^ord_[0-9a-hjkmnp-tv-z]{26}$")]
pub(super) struct OrderRef(String);

/// A product's id.
#[derive(ToSchema)]
#[schema(as = ProductId, pattern = "^prd_[0-9a-hjkmnp-tv-z]{26}$")]
pub(super) struct ProductRef(String);

/// A subscription's id.
#[derive(ToSchema)]
#[schema(as = SubscriptionId, pattern = "^sub_[0-9a-hjkmnp-tv-z]{26}$")]
pub(super) struct SubscriptionRef(String);

/// A currency of ISO 4217.
#[derive(ToSchema)]
#[schema(as = Currency, pattern = "^[A-Z]{3}$")]
pub(super) struct CurrencyCode(String);

/// Some money.
#[derive(ToSchema)]
#[schema(as = Money)]
pub(super) struct MoneyView {
    /// In the smallest unit of the currency.
    #[schema(minimum = 1, maximum = 1_000_000_000_000_000_i64)]
    minor: i64,
    currency: CurrencyCode,
    /// Decimal places of that unit.
    #[schema(minimum = 0, maximum = 4)]
    exponent: u8,
}

/// What a buyer may do with a track.
#[derive(ToSchema)]
#[schema(as = LicenceKind, rename_all = "snake_case")]
pub(super) enum KindView {
    Personal,
    Commercial,
    Extended,
}

/// A licence that a product has, and its price.
#[derive(ToSchema)]
#[schema(as = OfferedLicence)]
pub(super) struct OfferedView {
    kind: KindView,
    #[schema(minimum = 1, maximum = 10_000_000_000_i64)]
    price_minor: i64,
}

/// What is sold.
#[derive(ToSchema)]
#[schema(as = Product)]
pub(super) struct ProductView {
    id: ProductRef,
    seller: String,
    title: String,
    /// What its licences are for; null: no track of this server.
    #[schema(required)]
    track: Option<String>,
    currency: CurrencyCode,
    /// Decimal places of the currency's smallest unit.
    #[schema(minimum = 0, maximum = 4)]
    exponent: u8,
    /// Whether strangers hear thirty seconds of its track.
    preview_enabled: bool,
    /// Whether it can be bought.
    active: bool,
    licences: Vec<OfferedView>,
    /// URLs of pictures.
    images: Vec<String>,
    created: Time,
}

#[derive(ToSchema)]
#[schema(as = Products)]
pub(super) struct ProductList {
    items: Vec<ProductView>,
    /// For `before`; null at the end.
    #[schema(required)]
    next: Option<ProductRef>,
}

/// Where an order stands.
#[derive(ToSchema)]
#[schema(as = OrderStatus, rename_all = "snake_case")]
pub(super) enum OrderStanding {
    Created,
    PendingPayment,
    Paid,
    RefundPending,
    Refunded,
    Failed,
    Expired,
}

/// A payment at the provider.
#[derive(ToSchema)]
#[schema(as = Payment)]
pub(super) struct PaymentView {
    /// Ours and the provider's.
    id: String,
    /// With which a browser pays; null when there is nothing to pay, or the provider has not answered.
    #[schema(required)]
    client_secret: Option<String>,
}

/// One bought thing.
#[derive(ToSchema)]
#[schema(as = OrderItem)]
pub(super) struct ItemView {
    product: ProductRef,
    /// The product's when it was bought.
    title: String,
    #[schema(required)]
    track: Option<String>,
    licence: KindView,
    seller: String,
    /// Tax included.
    #[schema(minimum = 1)]
    price_minor: i64,
    #[schema(minimum = 0)]
    tax_minor: i64,
    /// What the platform keeps; null for the buyer.
    #[schema(required, minimum = 0)]
    fee_minor: Option<i64>,
    /// What the seller gets; null for the buyer.
    #[schema(required, minimum = 0)]
    seller_minor: Option<i64>,
}

/// An order. Its buyer and admins see all of it, a seller what they sold.
#[derive(ToSchema)]
#[schema(as = Order)]
pub(super) struct OrderView {
    id: OrderRef,
    status: OrderStanding,
    /// Null for a seller.
    #[schema(required)]
    buyer: Option<String>,
    /// Null for a seller.
    #[schema(required)]
    total: Option<MoneyView>,
    currency: CurrencyCode,
    items: Vec<ItemView>,
    /// What of it went back; null for a seller.
    #[schema(required, minimum = 0)]
    returned_minor: Option<i64>,
    payment: PaymentView,
    /// Of one order that is looked at; else none.
    refunds: Vec<RefundView>,
    created: Time,
    #[schema(required)]
    paid: Option<Time>,
    #[schema(required)]
    refunded: Option<Time>,
    /// Until when it may be refunded; null until it is paid.
    #[schema(required)]
    refund_until: Option<Time>,
}

#[derive(ToSchema)]
#[schema(as = Orders)]
pub(super) struct OrderList {
    items: Vec<OrderView>,
    /// For `before`; null at the end.
    #[schema(required)]
    next: Option<OrderRef>,
}

/// Where a refund stands.
#[derive(ToSchema)]
#[schema(as = RefundStatus, rename_all = "snake_case")]
pub(super) enum RefundStanding {
    Pending,
    Succeeded,
    Failed,
}

/// Money that goes back.
#[derive(ToSchema)]
#[schema(as = Refund)]
pub(super) struct RefundView {
    #[schema(pattern = "^ref_[0-9a-hjkmnp-tv-z]{26}$")]
    id: String,
    order: OrderRef,
    status: RefundStanding,
    amount: MoneyView,
    created: Time,
    /// When it ended.
    #[schema(required)]
    settled: Option<Time>,
}

/// What somebody may do with what they bought.
#[derive(ToSchema)]
#[schema(as = Licence)]
pub(super) struct LicenceView {
    #[schema(pattern = "^lic_[0-9a-hjkmnp-tv-z]{26}$")]
    id: String,
    order: OrderRef,
    product: ProductRef,
    #[schema(required)]
    track: Option<String>,
    kind: KindView,
    granted: Time,
    /// Null: it is in force.
    #[schema(required)]
    revoked: Option<Time>,
}

#[derive(ToSchema)]
#[schema(as = Licences)]
pub(super) struct LicenceList {
    items: Vec<LicenceView>,
    /// For `before`; null at the end.
    #[schema(required)]
    next: Option<String>,
}

/// What can be subscribed to.
#[derive(ToSchema)]
#[schema(as = Plan)]
pub(super) struct PlanView {
    id: String,
    /// What a period costs; null: nothing.
    #[schema(required)]
    price: Option<MoneyView>,
    /// 0: it has no end.
    #[schema(minimum = 0)]
    period_days: i64,
    /// 0: it cannot be tried.
    #[schema(minimum = 0)]
    trial_days: i64,
    /// Whether it goes on by itself after a paid period.
    renews: bool,
}

#[derive(ToSchema)]
#[schema(as = Plans)]
pub(super) struct PlanList {
    items: Vec<PlanView>,
    /// Null: these are all.
    #[schema(required)]
    next: Option<String>,
}

/// Where a subscription stands.
#[derive(ToSchema)]
#[schema(as = SubscriptionStatus, rename_all = "snake_case")]
pub(super) enum SubscriptionStanding {
    PendingPayment,
    Trialing,
    Active,
    Expired,
    Cancelled,
}

/// Where an invoice stands.
#[derive(ToSchema)]
#[schema(as = InvoiceStatus, rename_all = "snake_case")]
pub(super) enum InvoiceStanding {
    Open,
    Paid,
    Failed,
}

/// What a period of a subscription was charged.
#[derive(ToSchema)]
#[schema(as = Invoice)]
pub(super) struct InvoiceView {
    #[schema(pattern = "^inv_[0-9a-hjkmnp-tv-z]{26}$")]
    id: String,
    status: InvoiceStanding,
    /// Tax included.
    amount: MoneyView,
    #[schema(minimum = 0)]
    tax_minor: i64,
    created: Time,
    #[schema(required)]
    paid: Option<Time>,
    /// Since when it is what was paid for.
    #[schema(required)]
    from: Option<Time>,
    /// … and until when; null too where a period has no end.
    #[schema(required)]
    until: Option<Time>,
    /// When the money went back, because the subscription had ended.
    #[schema(required)]
    returned: Option<Time>,
}

/// A subscription.
#[derive(ToSchema)]
#[schema(as = Subscription)]
pub(super) struct SubscriptionView {
    id: SubscriptionRef,
    plan: String,
    status: SubscriptionStanding,
    /// What a period costs; null: nothing.
    #[schema(required)]
    price: Option<MoneyView>,
    #[schema(required)]
    trial_until: Option<Time>,
    /// Until when it is in force; null: without end, or not yet.
    #[schema(required)]
    ends: Option<Time>,
    /// Whether it is to go on after that.
    renews: bool,
    /// When the next payment is asked for; null: none is.
    #[schema(required)]
    next_payment: Option<Time>,
    created: Time,
    /// What is to be paid now; null: nothing, or nobody asked.
    #[schema(required)]
    payment: Option<PaymentView>,
    /// Of one subscription that is looked at; else none.
    invoices: Vec<InvoiceView>,
}

#[derive(ToSchema)]
#[schema(as = Subscriptions)]
pub(super) struct SubscriptionList {
    items: Vec<SubscriptionView>,
    /// For `before`; null at the end.
    #[schema(required)]
    next: Option<SubscriptionRef>,
}

/// Where a seller is paid.
#[derive(ToSchema)]
#[schema(as = PaidTo)]
pub(super) struct AccountView {
    /// A connected account of Stripe; null: they have not said.
    #[schema(required, pattern = "^acct_[A-Za-z0-9]{1,64}$")]
    destination: Option<String>,
}

/// Where a seller is paid from now on.
#[derive(ToSchema)]
#[schema(as = PaidToNow)]
pub(super) struct SetAccountView {
    #[schema(pattern = "^acct_[A-Za-z0-9]{1,64}$")]
    destination: String,
}

/// What a seller has in one currency.
#[derive(ToSchema)]
#[schema(as = Balance)]
pub(super) struct BalanceView {
    currency: CurrencyCode,
    /// Decimal places of the currency's smallest unit.
    #[schema(minimum = 0, maximum = 4)]
    exponent: u8,
    /// What they are owed.
    #[schema(minimum = 0)]
    payable_minor: i64,
    /// Of it, what is being paid to them.
    #[schema(minimum = 0)]
    reserved_minor: i64,
    /// Of it, what is not.
    #[schema(minimum = 0)]
    available_minor: i64,
    /// What they owe.
    #[schema(minimum = 0)]
    owed_minor: i64,
}

#[derive(ToSchema)]
#[schema(as = Balances)]
pub(super) struct BalanceList {
    /// One for each currency that they ever had.
    balances: Vec<BalanceView>,
}

/// Where a transfer stands.
#[derive(ToSchema)]
#[schema(as = TransferStatus, rename_all = "snake_case")]
pub(super) enum TransferStanding {
    Pending,
    Completed,
    Failed,
    ReversalPending,
    Reversed,
    PermanentlyFailed,
}

/// What a seller was paid of an order.
#[derive(ToSchema)]
#[schema(as = Transfer)]
pub(super) struct TransferView {
    #[schema(pattern = "^trf_[0-9a-hjkmnp-tv-z]{26}$")]
    id: String,
    order: OrderRef,
    amount: MoneyView,
    status: TransferStanding,
    /// What came back.
    #[schema(minimum = 0)]
    reversed_minor: i64,
    /// Why the last try did not do it.
    #[schema(required)]
    error: Option<String>,
    /// Stripe's id; null until it was made.
    #[schema(required)]
    provider_id: Option<String>,
    /// When it is tried next; null: nobody tries.
    #[schema(required)]
    next_attempt: Option<Time>,
    created: Time,
}

#[derive(ToSchema)]
#[schema(as = Transfers)]
pub(super) struct TransferList {
    items: Vec<TransferView>,
    /// For `before`; null at the end.
    #[schema(required)]
    next: Option<String>,
}

/// What an account is on a balance sheet.
#[derive(ToSchema)]
#[schema(as = AccountKind, rename_all = "snake_case")]
pub(super) enum AccountKindView {
    Asset,
    Liability,
    Equity,
    Income,
    Expense,
}

/// An account of the ledger, and its sums in minor units.
#[derive(ToSchema)]
#[schema(as = LedgerAccount)]
pub(super) struct LineView {
    account: String,
    kind: AccountKindView,
    currency: CurrencyCode,
    #[schema(minimum = 0)]
    debits: i64,
    #[schema(minimum = 0)]
    credits: i64,
}

/// The sums of a currency, in minor units: equal in books that balance.
#[derive(ToSchema)]
#[schema(as = LedgerTotal)]
pub(super) struct TotalView {
    #[schema(minimum = 0)]
    debits: i64,
    #[schema(minimum = 0)]
    credits: i64,
}

/// How the money stands: what is open for too long, and what a person has to look at.
#[derive(ToSchema)]
#[schema(as = MoneyHealth)]
pub(super) struct HealthView {
    /// Refunds of which nobody knows whether the provider has them.
    #[schema(minimum = 0)]
    orphan_refund_rows: i64,
    #[schema(minimum = 0)]
    stuck_orders_pending: i64,
    #[schema(minimum = 0)]
    stuck_refunds_pending: i64,
    #[schema(minimum = 0)]
    open_invoices: i64,
    #[schema(minimum = 0)]
    stuck_invoices_open: i64,
    /// Transfers that nobody tries any more, too.
    #[schema(minimum = 0)]
    failed_transfers_at_max_retry: i64,
    #[schema(minimum = 0)]
    reversal_pending_transfers: i64,
    /// Payments and refunds at the provider that are not what was asked for.
    #[schema(minimum = 0)]
    alarms: i64,
    #[schema(minimum = 0)]
    webhooks_waiting: i64,
    /// When the oldest of them came, in microseconds since 1970.
    #[schema(required)]
    webhooks_since_us: Option<i64>,
    /// Journals that are in no chain.
    #[schema(minimum = 0)]
    unsealed_journals: i64,
    /// Debits less credits of each currency: 0 in books that balance.
    trial_balance_minor_units: BTreeMap<String, i64>,
}

/// The trial balance, and how the money stands.
#[derive(ToSchema)]
#[schema(as = Ledger)]
pub(super) struct LedgerView {
    accounts: Vec<LineView>,
    /// By currency.
    totals: BTreeMap<String, TotalView>,
    health: HealthView,
}

/// A fee that is booked.
#[derive(ToSchema)]
#[schema(as = BookedFee)]
pub(super) struct FeeView {
    reference: String,
    /// The number of its journal.
    #[schema(minimum = 1)]
    seq: i64,
}

/// A payout by hand that is booked.
#[derive(ToSchema)]
#[schema(as = BookedPayout)]
pub(super) struct PayoutView {
    reference: String,
    seller: String,
    amount: MoneyView,
}

/// Where a dispute stands.
#[derive(ToSchema)]
#[schema(as = DisputeStatus, rename_all = "snake_case")]
pub(super) enum DisputeStanding {
    Open,
    Won,
    Lost,
}

/// What a bank took from a payment, or wants to take.
#[derive(ToSchema)]
#[schema(as = Dispute)]
pub(super) struct DisputeView {
    /// The provider's.
    id: String,
    status: DisputeStanding,
    /// As the provider last said it.
    provider_state: String,
    amount: MoneyView,
    /// Of it, what nobody but the platform bears.
    #[schema(minimum = 0)]
    loss_minor: i64,
    /// About which payment.
    payment: String,
    /// What that was for.
    #[schema(required)]
    order: Option<OrderRef>,
    /// … or what else.
    #[schema(required)]
    subscription: Option<SubscriptionRef>,
    /// Why a person has to look at it.
    #[schema(required)]
    alarm: Option<String>,
    created: Time,
    /// When it was last won or lost.
    #[schema(required)]
    settled: Option<Time>,
}

#[derive(ToSchema)]
#[schema(as = Disputes)]
pub(super) struct DisputeList {
    items: Vec<DisputeView>,
    /// For `before`; null at the end.
    #[schema(required)]
    next: Option<String>,
}

/// What a provider told is logged.
#[derive(ToSchema)]
#[schema(as = Received)]
pub(super) struct ReceivedView {
    /// True.
    received: bool,
}
